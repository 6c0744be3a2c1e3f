#!/usr/bin/env bash
# Make one call to the toolrunner behind a machine's vsock and check the answer.
#
#   scripts/microvm/verify_vsock.sh
#   VSOCK_UDS=/run/mas-sandbox/vm1.vsock scripts/microvm/verify_vsock.sh
#
# VSOCK_UDS   the Unix socket of the machine's vsock (default: ./v.sock)
# VSOCK_PORT  where the toolrunner listens in the guest (default: 5000)
# CLIENT_BIN  the client (default: mas-toolrunner-client, of this checkout or from PATH)
# TIMEOUT_S   how long to wait for a machine that is still booting (default: 30)
set -euo pipefail

case "${1:-}" in -h | --help | -help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;; esac

die() { printf 'verify_vsock: %s\n' "$*" >&2; exit 1; }

here=$(cd "$(dirname "$0")/../.." && pwd)
client=${CLIENT_BIN:-$here/.venv/bin/mas-toolrunner-client}
[[ -n ${CLIENT_BIN:-} || -x $client ]] || client=mas-toolrunner-client
command -v "$client" >/dev/null || die "no program $client; run scripts/setup, or set CLIENT_BIN"
vsock=${VSOCK_UDS:-./v.sock}
port=${VSOCK_PORT:-5000}
deadline=$((SECONDS + ${TIMEOUT_S:-30}))

reply=
until [[ $SECONDS -ge $deadline ]]; do
  if [[ -S $vsock ]] && reply=$(printf '{"tool": "calculator", "args": {"expression": "6*7"}}' |
    "$client" --vsock "$vsock" --port "$port" --timeout 5 2>/dev/null); then
    break
  fi
  sleep 0.2
done
[[ -S $vsock ]] || die "there is no socket $vsock; is the machine running?"
case $reply in
*'"result":42'* | *'"result": 42'*) printf 'verify_vsock: 6*7 is 42, says %s\n' "$vsock" ;;
*) die "no right answer from port $port behind $vsock: ${reply:-nothing}" ;;
esac
