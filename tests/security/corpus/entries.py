"""The security corpus: what a hostile program may try, and where it must come to nothing.

One entry for each id: the attempt in words, and a letter each for local, jail, gvisor and
microvm. `X`: it must fail; `v`: it may succeed inside, and the host must not notice; `-`:
not promised. FS files, PR processes, KS kernel surface, NW network, RX resources, AP the
daemon's own interface, MT tenants, SS snapshots and state, SC starting and configuration.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    attempt: str
    letters: str

    @property
    def walled(self) -> frozenset[str]:
        """The runtimes with a wall that it is promised of."""
        names = ("jail", "gvisor", "microvm")
        return frozenset(
            n for n, letter in zip(names, self.letters[1:], strict=True) if letter != "-"
        )

    def strict(self, runtime: str) -> bool:
        """Whether nothing of it may succeed, not even inside."""
        return self.letters[("local", "jail", "gvisor", "microvm").index(runtime)] == "X"


ENTRIES = {
    "FS_01": Entry("read a host sentinel file by absolute path", "-XXX"),
    "FS_02": Entry(
        "file tool: .., absolute, prefix-sibling (/ws vs /ws-evil), NUL, trailing slash, 5000-char, invalid UTF-8 paths",
        "XXXX",
    ),
    "FS_03": Entry(
        "file tool reads/writes through symlink in workspace to host sentinel (file, dir, chain, dangling)",
        "XXXX",
    ),
    "FS_04": Entry("swap dir<->symlink 10k times while file tool writes (TOCTOU)", "XXXX"),
    "FS_05": Entry(
        "pre-create symlink/hardlink at path the daemon later writes, chowns or deletes (log, script, result, socket)",
        "XXXX",
    ),
    "FS_06": Entry("daemon opens FIFO/socket/device/sparse 1 PiB file left by sandbox", "XXXX"),
    "FS_07": Entry(
        "guest-produced tar/zip: ../, absolute, symlink-then-write, hardlink, device, setuid, 10k-ratio, overlap, 1M entries",
        "XXXX",
    ),
    "FS_08": Entry("write to ro mounts; remount,rw from root inside", "-XXX"),
    "FS_09": Entry(
        "create config/hook files the host later executes or trusts (policy file, .git/config fsmonitor, .bashrc, sitecustomize)",
        "XXXX",
    ),
    "FS_10": Entry("caller-supplied cwd/mount/path widens writable root", "XXXX"),
    "FS_11": Entry("/proc/1/root, /proc/*/cwd, /proc/self/fd/N magic links", "-XXX"),
    "FS_12": Entry(
        "write /proc/sys/kernel/core_pattern, /proc/sysrq-trigger, cgroup release_agent", "-XvX"
    ),
    "FS_13": Entry("replace own runtime binary via /proc/self/exe", "-XXX"),
    "FS_14": Entry("enumerate host paths via mountinfo, /proc/1/cmdline, error text", "-XXX"),
    "PR_01": Entry("read caps, NoNewPrivs, Seccomp mode, uid maps", "-Xvv"),
    "PR_02": Entry("daemon env canary in env, /proc/*/environ, core dumps, argv", "XXXX"),
    "PR_03": Entry("inherited fds >2 incl. sockets, cgroup/netns fds", "XXXX"),
    "PR_04": Entry("setuid/setcap binary, sudo, file caps", "-Xvv"),
    "PR_05": Entry("ptrace, process_vm_readv, pidfd_getfd on parent, daemon and sibling", "XXXX"),
    "PR_06": Entry("unshare/clone/clone3 NEWUSER, NEWNS, NEWNET", "-Xvv"),
    "PR_07": Entry("setns to any /proc/*/ns/*", "-Xvv"),
    "PR_08": Entry("mount, fsopen/fsmount/open_tree/move_mount, pivot_root, chroot", "-Xvv"),
    "PR_09": Entry("double-fork + setsid + close stdio, then outlive call", "XXXX"),
    "PR_10": Entry("ignore SIGTERM/SIGHUP/SIGINT; D-state/vfork loops", "XXXX"),
    "PR_11": Entry("fork faster than killer; stopped (SIGSTOP) child", "XXXX"),
    "PR_12": Entry("hold stdout pipe open in grandchild after main exit", "XXXX"),
    "PR_13": Entry("kill(-1), signals to host/daemon pids", "-XXX"),
    "PR_14": Entry("TIOCSTI/TIOCLINUX, incl. high-32-bit cmd", "-XXX"),
    "KS_01": Entry("io_uring_setup/enter/register", "-Xvv"),
    "KS_02": Entry("bpf, perf_event_open, userfaultfd", "-Xvv"),
    "KS_03": Entry("add_key/keyctl/request_key across two sandboxes", "-XXX"),
    "KS_04": Entry("init_module, kexec_load, quotactl, acct, swapon, syslog", "-Xvv"),
    "KS_05": Entry(
        "socket AF_ALG, AF_VSOCK, AF_PACKET, AF_KEY, AF_XDP, raw, netlink!=ROUTE", "-Xvv"
    ),
    "KS_06": Entry("same denied calls via x32, i386 int80, and every thread", "-XXX"),
    "KS_07": Entry("clock_settime, adjtimex, sethostname", "-Xvv"),
    "KS_08": Entry("open /dev/{mem,kmsg,kvm,fuse,net/tun,vsock,loop-control,vd*}, mknod", "-Xvv"),
    "KS_09": Entry("open_by_handle_at, name_to_handle_at", "-Xvv"),
    "KS_10": Entry("personality, 6k random syscalls with garbage args (bounded fuzz)", "-XXX"),
    "KS_11": Entry(
        "VM: writes to virtio config/queues, PIO/MMIO, vsock descriptors (stock fuzz driver)",
        "---X",
    ),
    "KS_12": Entry(
        "posture from HOST: ns ids, maps, caps, seccomp, rlimits, fds, uniform across threads vs golden file",
        "-XXX",
    ),
    "NW_01": Entry("net=none: TCP, UDP, ICMP, DNS, IPv6 to anything", "-XXX"),
    "NW_02": Entry("empty allowlist, policy reload, resume from snapshot", "-XXX"),
    "NW_03": Entry(
        "metadata decoys 169.254.169.254, .170.2, fd00:ec2::254, 100.100.100.200, 168.63.129.16 (harness-owned)",
        "-XXX",
    ),
    "NW_04": Entry(
        "RFC1918, CGNAT, loopback, link-local, ULA, multicast, NAT64, 6to4, v4-mapped, v4-compat",
        "XXXX",
    ),
    "NW_05": Entry(
        "host literals: 2130706433, 0x7f.1, 0177.0.0.1, 127.1, fullwidth digits, [..], trailing dot, %zone, IDN",
        "XXXX",
    ),
    "NW_06": Entry("DNS rebinding: name flips public->private between check and dial", "XXXX"),
    "NW_07": Entry("NUL/CR/LF/space/%-encoded in SOCKS5 or CONNECT host", "XXXX"),
    "NW_08": Entry("HTTP 30x chain to private/forbidden host, 20 hops, scheme change", "XXXX"),
    "NW_09": Entry("CONNECT allowed.com then SNI or Host/:authority = other", "-XXX"),
    "NW_10": Entry("client ignores proxy env; raw socket; in-sandbox relay re-CONNECTs", "-XXX"),
    "NW_11": Entry("plain HTTP, non-443 ports, UDP/QUIC, DoT, DoH to non-allowlisted", "-XXX"),
    "NW_12": Entry("DNS exfil: 50 unique labels under foreign zone; TXT; 63-char labels", "-XXX"),
    "NW_13": Entry("suffix tricks: evil-allowed.com, allowed.com.evil, *.com", "XXXX"),
    "NW_14": Entry("host abstract + path unix sockets (docker.sock, daemon.sock, D-Bus)", "-XXX"),
    "NW_15": Entry("reach daemon API, other VMs' taps, gateway IP, LAN from sandbox", "-XXX"),
    "NW_16": Entry("spoof source IP/MAC, ARP, RA, IPv6 link-local on tap", "--XX"),
    "RX_01": Entry("fork bomb", "XXXX"),
    "RX_02": Entry("allocate 10x memory (anon, shm, tmpfs, page cache, mmap)", "XXXX"),
    "RX_03": Entry("CPU spin on all cores, nice/RT tricks", "XXXX"),
    "RX_04": Entry("stdout/stderr flood 10 GB; no newline; slow reader", "XXXX"),
    "RX_05": Entry("fill disk; 1M inodes; 1000-deep dirs; huge xattrs", "XXXX"),
    "RX_06": Entry("fd, thread, timer, inotify, pty, SysV IPC exhaustion", "XXXX"),
    "RX_07": Entry("10k short conns / connection hold via proxy", "-XXX"),
    "RX_08": Entry("sleep forever; clock-step during call", "XXXX"),
    "RX_09": Entry("serial console/log flood; kernel panic loop in VM", "---X"),
    "RX_10": Entry("file-list/result with 100k files, 1k symlinks to one file", "XXXX"),
    "AP_01": Entry(
        "body > cap; Content-Length lie; chunked forever; 1 byte/10 s slowloris; 10k idle conns",
        "XXXX",
    ),
    "AP_02": Entry(
        "JSON: 100k nesting, 5000-digit int, NaN, dup keys, lone surrogate, 1M keys, regex bombs",
        "XXXX",
    ),
    "AP_03": Entry("CL+TE, TE: xchunked, bare LF, obs-fold, huge headers, Range bombs", "XXXX"),
    "AP_04": Entry(
        "browser-origin request; Host: evil (DNS rebinding); text/plain CSRF; WS cross-origin",
        "XXXX",
    ),
    "AP_05": Entry("no/wrong/short/other-tenant token; timing over 10k tries", "XXXX"),
    "AP_06": Entry("id guessing, path-encoded ids, unicode look-alikes", "XXXX"),
    "AP_07": Entry("replay same idempotency key same/different body, concurrently", "XXXX"),
    "AP_08": Entry(
        "CRLF, ANSI, U+2028, NUL, forged JSON line in args/filenames/agent output", "XXXX"
    ),
    "AP_09": Entry(
        "guest agent: 4 GiB length prefix, truncated frame, wrong id, unsolicited, 1M tiny frames, silence",
        "-XXX",
    ),
    "AP_10": Entry("guest reports exit code, duration, paths, other call's id", "-XXX"),
    "AP_11": Entry("guest connects to host vsock ports not offered / other VM's UDS", "---X"),
    "AP_12": Entry(
        "workload (not agent) talks on agent channel: fakes frames on stdout/vsock/UDS", "-XXX"
    ),
    "MT_01": Entry("A reads/writes B's workspace, /tmp, shm, image layer", "-XXX"),
    "MT_02": Entry("A sees B pids, sockets, netns, cgroup, keyring, abstract sockets", "-XXX"),
    "MT_03": Entry(
        "reuse of pooled sandbox/VM: residue files, env, tmpfs, memory, pids, ports, DNS cache, cookies",
        "-XXX",
    ),
    "MT_04": Entry("A's noisy load vs B p99 and start latency", "XXXX"),
    "MT_05": Entry("quota bypass by many sessions, names, or cancelled calls", "XXXX"),
    "MT_06": Entry("secret of A appears in B's output, logs, errors, audit", "XXXX"),
    "SS_01": Entry(
        "two clones of one snapshot print getrandom, uuid4, boot_id, TLS keys, Python random, machine-id",
        "---X",
    ),
    "SS_02": Entry(
        "restore with 1 bit flipped, truncated, other version/CPU, other tenant's file", "--XX"
    ),
    "SS_03": Entry("wall clock after restore; TLS and token expiry", "---X"),
    "SS_04": Entry("vsock/TCP in flight across snapshot", "---X"),
    "SS_05": Entry("snapshot/core/log file perms; secrets in template snapshot", "--XX"),
    "SS_06": Entry("state DB: truncate WAL tail, flip byte, older schema", "XXXX"),
    "SC_01": Entry("bwrap/seccomp/landlock/cgroup/kvm missing or failing", "XXXX"),
    "SC_02": Entry("rootfs/kernel/binary digest mismatch; tag moved", "-XXX"),
    "SC_03": Entry(
        "config: unknown keys, wildcards, world-writable file, 0.0.0.0 bind without auth", "XXXX"
    ),
    "SC_04": Entry("runtime versions below minimum (runsc, bwrap, VMM, kernel)", "-XXX"),
    "SC_05": Entry("PATH/LD_PRELOAD/PYTHON* injected via tool args env", "XXXX"),
    "SC_06": Entry("daemon launched as uid 0", "-X-X"),
}
