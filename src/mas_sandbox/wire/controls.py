"""The controls that a policy can ask for and a runtime can enforce."""

from __future__ import annotations

from enum import StrEnum


class Control(StrEnum):
    """What is held in force around a call. The value is what `enforced` lists."""

    TIMEOUT = "timeout"  # wall time of a call, its whole process tree
    OUTPUT = "output"  # bytes of stdout, stderr and value
    ENV = "env"  # nothing of the daemon's environment; only the names allowed
    FILESYSTEM = "filesystem"  # nothing of the host visible but what the wall grants
    PATHS = "paths"  # read-only or read-write beneath named paths, for every tool
    HOST_PATHS = "host_paths"  # a host directory inside the sandbox
    NETWORK = "network"  # no network device but loopback, no socket of the host's
    EGRESS = "egress"  # named hosts only, each connection decided and dialled by the daemon
    PROCESSES = "processes"  # other processes are invisible and cannot be signalled
    SYSCALLS = "syscalls"  # dangerous system calls are refused
    MEMORY = "memory"  # RAM of all processes together, swap off
    CPU = "cpu"  # processor time per second, all processes together
    CPU_TIME = "cpu_time"  # processor time of one call, its whole process tree
    PIDS = "pids"  # processes and threads
    NOFILE = "nofile"  # open files of each process
    DISK = "disk"  # bytes of scratch space
    DISK_FILES = "disk_files"  # files and directories in scratch space
    IO = "io"  # bandwidth and operations of block devices
    BANDWIDTH = "bandwidth"  # bytes a second over the network
