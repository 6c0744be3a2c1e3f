#!/bin/busybox sh
# The first process of the lab: a host for the scenarios, with KVM and vsock of its own.
# The kernel takes which they are from its command line, and puts it into $scenarios.
# /dev/vda is its root disk, /dev/vdb holds what is under test; both are only read.

/bin/busybox mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
mount -t sysfs sysfs /sys
exec </dev/null >/dev/console 2>&1

fail() {
  echo "lab-init: $*"
  poweroff -f
}

while read -r module; do
  [ -e "/sys/module/${module%.ko}" ] || insmod "/lib/modules/$module" || fail "no module $module"
done </lib/modules/lab

waited=0
until [ -b /dev/vdb ]; do
  [ $waited -lt 200 ] || fail "the disks did not appear within 10 s"
  waited=$((waited + 1))
  usleep 50000
done
mkdir /lower /tested /upper
mount -t ext4 -o ro /dev/vda /lower || fail "no root disk"
mount -t ext4 -o ro /dev/vdb /tested || fail "no disk with what is tested"
mount -t tmpfs -o mode=755 tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/tested:/lower,upperdir=/upper/files,workdir=/upper/work root /root
# As one finds it on a host: on one disk, whose rate can be limited.
mount -o bind /lower/usr /root/usr || fail "no /usr"

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ifconfig lo 127.0.0.1 up
# As udev leaves it on a Debian host: open to a group, and not to those we drop to.
chown 0:104 /dev/kvm
chmod 660 /dev/kvm

for directory in proc sys dev; do
  /bin/busybox mount -o move "/$directory" "/root/$directory"
done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root
exec /bin/busybox switch_root /root /usr/bin/env -C /lab python3 -S -m "lab.$scenarios"
