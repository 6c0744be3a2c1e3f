"""The programs that the self-test runs inside, and the limits that they run against.

Each prints a word and a number when it is through: what it got, or `tried`. Where a wall
is missing they run on the host itself, as root perhaps, so what they do must harm nobody
when it succeeds: they change nothing but their own process, new files under names of
their own, and what the stage put up.
"""

from __future__ import annotations

GIVEN = "/mas-self-test"
"""Where a sandbox finds the host directory that it may only read."""
MEM_MB, PIDS, DISK_MB, DISK_FILES = 128, 32, 4, 64
NOFILE, CPU_MS, OUTPUT_BYTES = 32, 100, 1000
CPUS, SPINNERS, SPIN_S = 0.2, 8, 0.6
IOPS, READS = 50, 15

CONNECT = """
    import socket
    tcp, udp = {ports!r}
    def attempt(family, kind, address):
        with socket.socket(family, kind) as s:
            s.settimeout(2)
            try:
                s.connect(address)
                s.send(b'x')
            except OSError:
                pass
    attempt(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', tcp))
    attempt(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', udp))
    for path in {paths!r}:
        attempt(socket.AF_UNIX, socket.SOCK_STREAM, path)
    print('tried 1')
    """
CALL_SYSTEM = """
    import ctypes
    libc = ctypes.CDLL(None)
    space = ctypes.create_string_buffer(256)
    attempts = {
        'io_uring_setup': lambda: libc.syscall(425, 1, space),
        'open_tree': lambda: libc.syscall(428, -100, b'/', 1),
        'fsopen': lambda: libc.syscall(430, b'tmpfs', 0),
        'unshare': lambda: libc.unshare(0x20000),
    }
    for name, attempt in attempts.items():
        if attempt() >= 0:
            print('broke', name)
    print('tried 1')
    """
OPEN = """
    import os, resource
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    except (OSError, ValueError):
        pass
    made = 0
    try:
        while made < 256:
            made = os.dup(0) + 1
    except OSError:
        pass
    os.closerange(3, 300)
    print('made', made)
    """
FORK = f"""
    import os, signal
    made = []
    try:
        while len(made) < {4 * PIDS}:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            made.append(pid)
    except OSError:
        pass
    print('made', len(made), flush=True)
    for pid in made:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    """
WRITE = f"""
    import os
    most = 0
    for directory in ('.', os.environ['TMPDIR']):
        path = os.path.join(directory, f'self-test-{{os.getpid()}}')
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        written = 0
        try:
            while written < {3 * DISK_MB << 20}:
                written += os.write(file, bytes(1 << 20))
        except OSError:
            pass
        os.unlink(path)
        os.close(file)
        most = max(most, written)
    print('made', most)
    """
CREATE = f"""
    import os, shutil
    most = 0
    for directory in ('.', os.environ['TMPDIR']):
        path = os.path.join(directory, f'self-test-{{os.getpid()}}')
        os.mkdir(path)
        made = 1
        try:
            while made < {3 * DISK_FILES}:
                os.close(os.open(f'{{path}}/{{made}}', os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                made += 1
        except OSError:
            pass
        shutil.rmtree(path)
        most = max(most, made)
    print('made', most)
    """
SPEND = """
    import os, signal, time
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(100):
        if os.fork() == 0:
            while time.process_time() < 0.02:
                pass
            os._exit(0)
        try:
            os.wait()
        except OSError:
            pass
    """
SPIN = f"""
    import os, time
    until = time.monotonic() + {SPIN_S}
    children = []
    for _ in range({SPINNERS}):
        children.append(os.fork())
        if children[-1] == 0:
            while time.monotonic() < until:
                pass
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    print('tried 1')
    """
READ = f"""
    import mmap, os, sys, time
    file = os.open(os.path.realpath(sys.executable), os.O_RDONLY | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    started = time.monotonic()
    for number in range({READS}):
        os.preadv(file, [page], number * 4096)
    print('took', time.monotonic() - started)
    """
ALLOCATE = f"x = b'x' * ({2 * MEM_MB} << 20)\nprint('allocated')"
