#!/usr/bin/env bash
# Run one Firecracker machine by hand, in the foreground; Ctrl-C ends it and removes its
# sockets. Its console is what you see. Then, from another terminal:
# scripts/microvm/verify_vsock.sh
#
#   scripts/microvm/run_firecracker.sh
#   KERNEL_IMAGE=vmlinux INITRD=initrd.img ROOTFS=rootfs.ext4 scripts/microvm/run_firecracker.sh
#
# FIRECRACKER   the program (default: firecracker, from PATH)
# KERNEL_IMAGE  an uncompressed kernel; INITRD its initramfs; ROOTFS an ext4 image
#               (default: the image that `mas-sandbox image build` made last)
# VSOCK_UDS     where the vsock's socket is made (default: ./v.sock)
# VSOCK_PORT    where the toolrunner listens in the guest (default: 5000)
# VCPU_COUNT, MEM_MIB, OVERLAY_MB   the machine's size (default: 1, 512, 256)
# BOOT_ARGS     added to the kernel's command line
set -euo pipefail

case "${1:-}" in -h | --help | -help) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

die() { printf 'run_firecracker: %s\n' "$*" >&2; exit 1; }

cache=${XDG_CACHE_HOME:-$([[ $EUID == 0 ]] && echo /var/cache || echo ~/.cache)}
image=$cache/mas-sandbox/images/current
firecracker=${FIRECRACKER:-firecracker}
kernel=${KERNEL_IMAGE:-$image/vmlinux}
rootfs=${ROOTFS:-$image/rootfs.ext4}
initrd=${INITRD-}
[[ -n ${KERNEL_IMAGE:-} || -n ${INITRD+set} ]] || initrd=$image/initrd.img
vsock=${VSOCK_UDS:-./v.sock}
port=${VSOCK_PORT:-5000}

command -v "$firecracker" >/dev/null || die "no program $firecracker; set FIRECRACKER"
command -v curl >/dev/null || die "curl is missing; install it"
for file in "$kernel" "$rootfs" ${initrd:+"$initrd"}; do
  [[ -r $file ]] || die "$file cannot be read; run \`mas-sandbox image build\`, or name another"
done
[[ ! -e $vsock ]] || die "$vsock is there already; remove it, or set VSOCK_UDS"

work=$(mktemp -d)
api=$work/api.sock
machine=
clean_up() {
  trap '' INT TERM # a second Ctrl-C must not leave the half of it
  [[ -z $machine ]] || kill "$machine" 2>/dev/null || true
  [[ -z $machine ]] || wait "$machine" 2>/dev/null || true
  rm -rf "$work" "$vsock"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

"$firecracker" --api-sock "$api" --id by-hand &
machine=$!
for _ in $(seq 200); do
  [[ ! -S $api ]] && kill -0 "$machine" 2>/dev/null || break
  sleep 0.02
done
[[ -S $api ]] || die "Firecracker did not start"

put() { # target, body
  local answer
  answer=$(curl --silent --show-error --max-time 20 --unix-socket "$api" -w '%{http_code}' \
    -X PUT -H 'Content-Type: application/json' -d "$2" "http://localhost$1") ||
    die "PUT $1: no answer"
  [[ $answer == 204 ]] || die "PUT $1 was refused: $answer"
}
quoted() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }

arguments="console=ttyS0 reboot=k panic=-1 pci=off mas.channel=vsock:$port"
arguments+=" mas.overlay_mb=${OVERLAY_MB:-256}${BOOT_ARGS:+ $BOOT_ARGS}"
put /machine-config "{\"vcpu_count\": ${VCPU_COUNT:-1}, \"mem_size_mib\": ${MEM_MIB:-512}}"
put /boot-source "{\"kernel_image_path\": $(quoted "$kernel"),
  ${initrd:+"\"initrd_path\": $(quoted "$initrd"),"} \"boot_args\": $(quoted "$arguments")}"
put /drives/rootfs "{\"drive_id\": \"rootfs\", \"path_on_host\": $(quoted "$rootfs"),
  \"is_root_device\": true, \"is_read_only\": true}"
put /vsock "{\"guest_cid\": 3, \"uds_path\": $(quoted "$vsock")}"
put /entropy '{}'
put /actions '{"action_type": "InstanceStart"}'
printf 'run_firecracker: started; its toolrunner will be on port %s behind %s\n' \
  "$port" "$vsock" >&2
wait "$machine"
