"""Which system calls a jail refuses, each with its reason.

The list names what is dangerous and refuses it; everything else that was known when
it was written is allowed, and everything newer answers ENOSYS. Sources: the seccomp
profiles of Docker and Flatpak, seccomp(2), and the kernel's system call tables.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum


class When(Enum):
    """Under which arguments a rule refuses."""

    ALWAYS = "always"
    NEW_NAMESPACE = "flags ask for a new namespace"
    SOCKET_FAMILY = "family is not UNIX, INET, INET6 or route NETLINK, or type is RAW"
    SOCKETPAIR_FAMILY = "family is not UNIX"
    TERMINAL_INJECTION = "request is TIOCSTI or TIOCLINUX"
    PERSONA = "persona is neither the default nor a query"
    DEVICE_NODE = "mode asks for a device"
    DEVICE_NODE_AT = "mode asks for a device, in the third argument"


@dataclass(frozen=True, slots=True)
class Rule:
    """Refuse `names` with `error` (an errno) for `reason`."""

    names: tuple[str, ...]
    reason: str
    error: int = errno.EPERM
    when: When = When.ALWAYS


RULES: tuple[Rule, ...] = (
    Rule(
        ("clone3",),
        "its flags lie behind a pointer that a filter cannot read; libc falls back to clone",
        errno.ENOSYS,
    ),
    Rule(
        ("clone",),
        "a nested user namespace hands out capabilities and the kernel's less tested half",
        when=When.NEW_NAMESPACE,
    ),
    Rule(
        ("unshare",),
        "a nested namespace hands out capabilities and the kernel's less tested half",
        when=When.NEW_NAMESPACE,
    ),
    Rule(("setns",), "joins another namespace, such as one left open by mistake"),
    Rule(
        ("mount", "umount2", "pivot_root", "chroot"),
        "changes what the file tree is, which is the wall itself",
    ),
    Rule(
        ("fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "open_tree_attr", "move_mount"),
        "the newer mount interface: the same wall by another door",
    ),
    Rule(("mount_setattr",), "could make a read-only mount writable"),
    Rule(("statmount", "listmount"), "tells the host's layout beyond what /proc shows"),
    Rule(
        ("io_uring_setup", "io_uring_enter", "io_uring_register"),
        "performs operations that a filter never sees, and a long line of kernel faults",
    ),
    Rule(("bpf",), "loads programs into the kernel"),
    Rule(("userfaultfd",), "stops the kernel in the middle of a copy, a tool for races"),
    Rule(("perf_event_open",), "observes other processes and has a long line of kernel faults"),
    Rule(
        ("add_key", "keyctl", "request_key"),
        "keyrings are not namespaced: sandboxes of one user would share them",
    ),
    Rule(
        ("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp"),
        "reads or steers another process, such as the toolrunner",
    ),
    Rule(("pidfd_getfd",), "takes a descriptor, such as the channel, out of another process"),
    Rule(
        ("open_by_handle_at", "name_to_handle_at"),
        "opens files by number, past every mount and path",
    ),
    Rule(
        ("socket",),
        "VSOCK, ALG, PACKET, XDP, raw and other sockets reach past an empty network namespace",
        errno.EAFNOSUPPORT,
        When.SOCKET_FAMILY,
    ),
    Rule(
        ("socketpair",),
        "pairs of other families exercise rarely used protocols",
        errno.EAFNOSUPPORT,
        When.SOCKETPAIR_FAMILY,
    ),
    Rule(
        ("ioctl",),
        "TIOCSTI and TIOCLINUX type into a terminal that someone else reads (CVE-2017-5226)",
        when=When.TERMINAL_INJECTION,
    ),
    Rule(
        ("personality",),
        "other personalities switch off address randomisation and more",
        when=When.PERSONA,
    ),
    Rule(("mknod",), "makes a device node", when=When.DEVICE_NODE),
    Rule(("mknodat",), "makes a device node", when=When.DEVICE_NODE_AT),
    Rule(
        ("init_module", "finit_module", "delete_module", "create_module"),
        "loads code into the kernel",
    ),
    Rule(("kexec_load", "kexec_file_load", "reboot"), "replaces or stops the kernel"),
    Rule(
        ("quotactl", "quotactl_fd", "acct", "swapon", "swapoff"),
        "administers the whole machine",
    ),
    Rule(("syslog",), "reads the kernel's log, with its addresses"),
    Rule(("iopl", "ioperm"), "opens the machine's ports"),
    Rule(
        ("clock_settime", "clock_adjtime", "adjtimex", "settimeofday"),
        "the clock is the machine's",
    ),
    Rule(("sethostname", "setdomainname"), "the name is the wall's to set"),
    Rule(("fanotify_init", "fanotify_mark"), "watches whole file systems"),
    Rule(
        (
            *("mbind", "set_mempolicy", "set_mempolicy_home_node", "get_mempolicy"),
            *("migrate_pages", "move_pages"),
        ),
        "places memory on nodes, across processes",
    ),
    Rule(("vhangup",), "hangs up a terminal"),
    Rule(("lookup_dcookie",), "turns kernel cookies into host paths"),
    Rule(("memfd_secret",), "memory that the host cannot account for or inspect"),
    Rule(("modify_ldt",), "an old interface with a line of kernel faults"),
    Rule(
        (
            *("uselib", "ustat", "sysfs", "_sysctl", "nfsservctl", "vserver", "tuxcall"),
            *("security", "afs_syscall", "getpmsg", "putpmsg", "get_kernel_syms", "query_module"),
        ),
        "obsolete, and used by nothing but attacks",
        errno.ENOSYS,
    ),
)
