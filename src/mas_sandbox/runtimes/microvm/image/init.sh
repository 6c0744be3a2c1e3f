#!/bin/busybox sh
# The first process of a guest: finds its disk and its channel, then becomes the toolrunner.
# Kernel command line: mas.channel=serial | mas.channel=vsock:PORT, mas.overlay_mb=N,
# mas.command=PROGRAM and mas.arg=WORD for another toolrunner than our own, and
# ip=CLIENT::GATEWAY:NETMASK for a guest with a network device (as in the kernel's nfsroot.rst),
# mas.dns=ADDRESS for its resolver.
# Every program here is busybox: its shell runs them without looking for files.

/bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc # busybox finds itself there
mount -t devtmpfs -o nosuid,mode=755 devtmpfs /dev
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
if (: >/dev/console) 2>/dev/null; then exec </dev/null >/dev/console 2>&1; fi

fail() {
  echo "mas-init: $*"
  reboot -f
}

channel=serial overlay_mb=256 address= dns= command= arguments=
read -r words </proc/cmdline
for word in $words; do
  case $word in
  mas.channel=*) channel=${word#*=} ;;
  mas.overlay_mb=*) overlay_mb=${word#*=} ;;
  mas.command=*) command=${word#*=} ;;
  mas.arg=*) arguments="$arguments ${word#*=}" ;;
  ip=*) address=${word#*=} ;;
  mas.dns=*) dns=${word#*=} ;;
  esac
done

load() {
  [ -e "/lib/modules/$1" ] || return 0 # a kernel that has it built in
  while read -r module; do
    [ -e "/sys/module/${module%.ko}" ] || insmod "/lib/modules/$module" ||
      echo "mas-init: the module $module cannot be loaded"
  done <"/lib/modules/$1"
}
load base
case $channel in vsock:*) load vsock ;; esac
[ -z "$address" ] || load network

waited=0
until [ -b /dev/vda ]; do
  [ $waited -lt 100 ] || fail "no root disk /dev/vda appeared within 5 s"
  waited=$((waited + 1))
  usleep 50000
done
mount -t ext4 -o ro /dev/vda /lower || fail "the root disk /dev/vda holds no ext4 file system"
mount -t tmpfs -o "size=${overlay_mb}m,mode=700" tmpfs /upper ||
  fail "mas.overlay_mb=$overlay_mb is not a size"
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root ||
  fail "this kernel has no overlay file system"
[ -e /root/opt/mas/toolrunner.pyz ] || fail "the root disk holds no toolrunner; build it again"

mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts -o nosuid,noexec,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
ifconfig lo 127.0.0.1 up
if [ -n "$address" ]; then
  client=${address%%:*} rest=${address#*:*:}
  gateway=${rest%%:*} rest=${rest#*:}
  ifconfig eth0 "$client" netmask "${rest%%:*}" up || echo "mas-init: no network device eth0"
  [ -z "$gateway" ] || route add default gw "$gateway"
fi
[ -z "$dns" ] || echo "nameserver $dns" >/root/etc/resolv.conf

case $channel in
vsock:*) set -- -port "${channel#vsock:}" ;;
serial)
  for name in /sys/class/virtio-ports/*/name; do
    [ -e "$name" ] && read -r port <"$name" && [ "$port" = mas.channel ] || continue
    name=${name%/name}
    ln -s "/dev/${name##*/}" /dev/virtio-ports/mas.channel
  done
  [ -e /dev/virtio-ports/mas.channel ] || fail "there is no virtio-serial port mas.channel"
  set -- -serial /dev/virtio-ports/mas.channel
  ;;
*) fail "mas.channel=$channel is neither serial nor vsock:PORT" ;;
esac

mount -o move /upper /root/opt/mas/upper # in sight of the toolrunner, which sets its size
for directory in proc sys dev; do
  /bin/busybox mount -o move "/$directory" "/root/$directory" # by path once /proc is gone
done
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
cd /
[ -n "$command" ] || command="/opt/mas/bin/python3 -I -S /opt/mas/toolrunner.pyz"
exec /bin/busybox switch_root /root $command $arguments \
  "$@" -workspace /workspace -own-kernel -proxy 3128
