#!/usr/bin/env bash
# Build a guest image (kernel, initramfs, root file system) and print where its files are,
# as lines that a shell can read: KERNEL_IMAGE=..., INITRD=..., ROOTFS=...
# Takes about a minute; nothing where nothing has changed since the last time.
#
#   scripts/microvm/build_rootfs.sh                              Debian, with Python
#   BASE_ROOTFS_TAR=alpine.tar scripts/microvm/build_rootfs.sh   any root; a Python is carried
#
# BASE_ROOTFS_TAR  a root file system or container image in a tar archive (default: Debian)
# TOOLRUNNER_BIN   a mas-toolrunner zipapp to put in (default: this checkout's)
# KERNEL_IMAGE     a vmlinux or bzImage with virtio, ext4 and overlay built in
#                  (default: Debian's cloud kernel)
# ROOTFS           copy the root file system here as well
# MAS_SANDBOX      the command (default: of this checkout)
set -euo pipefail

case "${1:-}" in -h | --help | -help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

here=$(cd "$(dirname "$0")/../.." && pwd)
mas_sandbox=${MAS_SANDBOX:-$here/.venv/bin/mas-sandbox}
if [[ ! -x $mas_sandbox ]]; then
  printf 'build_rootfs: run scripts/setup --microvm first, or set MAS_SANDBOX\n' >&2
  exit 1
fi

"$mas_sandbox" image build ${BASE_ROOTFS_TAR:+--from "$BASE_ROOTFS_TAR"} \
  ${TOOLRUNNER_BIN:+--toolrunner "$TOOLRUNNER_BIN"} ${KERNEL_IMAGE:+--kernel "$KERNEL_IMAGE"} >&2

cache=${XDG_CACHE_HOME:-$([[ $EUID == 0 ]] && echo /var/cache || echo ~/.cache)}
image=$(cd "$cache/mas-sandbox/images/current" && pwd -P)
rootfs=$image/rootfs.ext4
if [[ -n ${ROOTFS:-} ]]; then
  cp --sparse=always "$rootfs" "$ROOTFS"
  rootfs=$ROOTFS
fi
printf 'KERNEL_IMAGE=%q\nINITRD=%q\nROOTFS=%q\n' "$image/vmlinux" "$image/initrd.img" "$rootfs"
