#!/usr/bin/env bash
# From nothing to an answer out of a virtual machine: use the guest image, or build it,
# start mas-sandboxd with the microvm runtime on a free port of this machine, make a call
# over HTTP and check the answer. Leaves nothing running.
#
#   scripts/microvm/microvm_e2e.sh                   whichever monitor boots a guest here
#   VMM=qemu scripts/microvm/microvm_e2e.sh          on any machine, without KVM too
#   VMM=firecracker scripts/microvm/microvm_e2e.sh   where KVM works
#
# VMM              auto, qemu or firecracker (default: auto)
# FIRECRACKER      the program (default: firecracker, from PATH)
# BUILD_ROOTFS     1: build the image first; 0: never (default: where there is none)
# BASE_ROOTFS_TAR, TOOLRUNNER_BIN   what it is built from, as in build_rootfs.sh
# KERNEL_IMAGE     with ROOTFS: use this kernel; without: build the image with it
# ROOTFS, INITRD   use this root file system and initramfs instead of the built image
# MAS_SANDBOXD     the daemon (default: of this checkout)
set -euo pipefail

case "${1:-}" in -h | --help | -help) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

die() { printf 'microvm_e2e: %s\n' "$*" >&2; exit 1; }
say() { printf 'microvm_e2e: %s\n' "$*" >&2; }

here=$(cd "$(dirname "$0")/../.." && pwd)
daemon_program=${MAS_SANDBOXD:-$here/.venv/bin/mas-sandboxd}
python=$here/.venv/bin/python
[[ -x $python ]] || die "run scripts/setup --microvm first"

if [[ -z ${ROOTFS:-} ]]; then
  found=$("$here/.venv/bin/mas-sandbox" image ls --json)
  if [[ ${BUILD_ROOTFS:-} == 1 || (${BUILD_ROOTFS:-} != 0 && $found != *digest*) ]]; then
    say "building the guest image"
    "$here/scripts/microvm/build_rootfs.sh" >/dev/null
  fi
fi

state=$(mktemp -d)
daemon=
clean_up() {
  trap '' INT TERM # a second Ctrl-C must not leave the half of it
  if [[ -n $daemon ]]; then
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  rm -rf "$state"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
chmod 711 "$state" # a machine's monitor may run as a user of its own, below it

(
  umask 077
  VMM=${VMM:-auto} "$python" - >"$state/microvm.json" <<'PYTHON'
import json
import os

fields = {"vmm": "VMM", "firecracker_bin": "FIRECRACKER"}
if os.environ.get("ROOTFS"):
    fields |= {"kernel_image": "KERNEL_IMAGE", "initrd": "INITRD", "rootfs": "ROOTFS"}
given = {name: os.environ.get(variable) for name, variable in fields.items()}
print(json.dumps({name: value for name, value in given.items() if value}))
PYTHON
)
token=$("$python" -c 'import secrets; print(secrets.token_hex(32))')

MAS_SANDBOX_STATE=$state MAS_SANDBOX_TOKEN=$token "$daemon_program" -listen 127.0.0.1:0 \
  -runtime microvm -runtime-config "$state/microvm.json" 2>"$state/log" &
daemon=$!
url=
for _ in $(seq 1200); do # a template may have to be made: some seconds
  url=$(sed -n 's/^ *listening *\(http[^ ]*\).*/\1/p' "$state/log")
  [[ -z $url ]] && kill -0 "$daemon" 2>/dev/null || break
  sleep 0.1
done
[[ -n $url ]] || die "the daemon did not start: $(cat "$state/log")"

call='{"tool": {"name": "calculator", "args": {"expression": "6*7"}}}'
reply=$(curl --silent --show-error --max-time 120 -H "Authorization: Bearer $token" \
  -H 'Content-Type: application/json' -d "$call" "$url/v1/sandbox/execute") ||
  die "no answer; the daemon said: $(tail -n 5 "$state/log")"
printf '%s\n' "$reply"
"$python" - "$reply" <<'PYTHON' || die "that is not the answer; the daemon said: $(tail "$state/log")"
import json
import sys

reply = json.loads(sys.argv[1])
right = reply["status"] == "ok" and reply["result"] == 42 and reply["isolation"] == "vm"
sys.exit(not right)
PYTHON
say "6*7 is 42, says a virtual machine"
