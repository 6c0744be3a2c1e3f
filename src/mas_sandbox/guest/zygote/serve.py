"""The zygote: a toolrunner that has imported all it needs, and forks for each jail.

It has one thread, an empty environment and no secret; it hears its daemon alone, and ends
with it. What all jails share with it is its memory as it was before it heard anything: its
layout, and its seed of `hash`, which say nothing of another jail.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import sys

from .. import libc, tools
from ..child import close_all_but
from ..signals import Signals
from . import request, system, tree, walls
from .request import Common, Request
from .words import UnknownError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    Main = Callable[[list[str]], int]

_EX_OSERR = 71
_INSIDE = "/run/mas/toolrunner.pyz"
"""Where a jail has the file that all of this was imported from."""


def serve(control: int, main: Main, *, own_users: bool) -> int:
    """Make jails until the daemon is gone. `control`: a SOCK_SEQPACKET of its, on which it says
    what is common to them, then one request and one answer for each; `main`: what a jail's
    first process goes on with; `own_users`: whether this process has a user namespace of its
    own. Raises OSError, ValueError, KeyError, UnknownError."""
    if os.geteuid() != 0 and not own_users:
        _begin_again(control)
    _import_all()
    _move_modules()
    close_all_but(control)
    asked = _socket.socket(fileno=control)
    asked_first = request.receive(asked)
    if asked_first is None:
        return 0
    _settle(Common(asked_first))
    for descriptor in asked_first:
        os.close(descriptor)
    # A process of another user could not reach it anyway; now none of the same user can.
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    return _Zygote(asked, main).run()


def _begin_again(control: int) -> NoReturn:
    """In a user namespace of its own, and executed in it: memory belongs to the namespace that
    a program was executed in (the kernel's mm_struct.user_ns). Else a jail's processes, which
    nobody of its user may look into, would be closed to this user's daemon as well."""
    user, group = os.geteuid(), os.getegid()
    system.unshare(system.NEWUSER)
    walls.be(user, user, group, group)
    system.keep_capabilities(system.CAP_SYS_ADMIN | system.CAP_SETPCAP)
    os.set_inheritable(control, True)
    os.execve(sys.executable, [*sys.orig_argv, "--own-users"], {})  # noqa: S606


def _settle(common: Common) -> None:
    """Give up what jails do not need, and make what they have alike."""
    os.umask(0)
    if os.geteuid() == 0:
        os.setgroups([])
    system.unshare(system.NEWNS)
    tree.settle(common.steps, common.descriptors)
    # What is left is what it takes to fork as somebody else, and to take him along in death:
    # the signal of PR_SET_PDEATHSIG needs a sender who may send it.
    needed = system.CAP_SETGID | system.CAP_SETUID | system.CAP_KILL
    system.drop_capabilities(needed if os.geteuid() == 0 else 0)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)


class _Zygote:
    def __init__(self, control: _socket.socket, main: Main) -> None:
        self._control = control
        self._main = main
        self._signals = Signals()
        self._alive, self._kept = os.pipe()
        self._shown = system.CommandLine()
        os.set_inheritable(control.fileno(), False)

    def run(self) -> int:
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._signals.descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._signals.descriptor:
                    if self._signals.take():
                        return 0
                    _reap()
                elif not self._take():
                    return 0

    def _take(self) -> bool:
        """Serve one request; False where there will be none. Whoever has the answer may count
        on it that nothing of the request is held any more."""
        received = request.receive(self._control)
        if received is None:
            return False
        pidfd = None
        try:
            pid, pidfd = self._fork(Request(received))
            said = str(pid)
        except (OSError, ValueError, KeyError, UnknownError) as error:
            said = f"the zygote could not fork: {error}"
        finally:
            for descriptor in received:
                os.close(descriptor)
        request.answer(self._control, said, pidfd)
        if pidfd is not None:
            os.close(pidfd)
        return True

    def _fork(self, asked: Request) -> tuple[int, int]:
        """A jail's first process: its id, which is its own until it is reaped, and a pidfd."""
        pid = self._clone(asked)
        try:
            return pid, os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise

    def _clone(self, asked: Request) -> int:
        """As the jail's user, whose the namespaces are then, and who may map himself."""
        namespaces = asked.plan.namespaces & ~system.NEWCGROUP  # of the group it is to join
        own = os.geteuid(), os.getegid()
        user, group = own if asked.user is None else (asked.user, asked.user)
        os.setresgid(-1, group, -1)
        os.setresuid(-1, user, -1)
        pid = -1
        try:
            pid = system.clone(namespaces)
        finally:
            if pid != 0:
                os.setresuid(-1, own[0], -1)
                os.setresgid(-1, own[1], -1)
        if pid == 0:
            self._become(asked, user, group)
        return pid

    def _become(self, asked: Request, user: int, group: int) -> NoReturn:
        """The jail's first process, from its fork to its end."""
        try:
            signal.set_wakeup_fd(-1)  # its pipe is the zygote's
            os.close(self._kept)
            walls.become(asked, user, group, self._alive)
            self._shown.say(["mas-toolrunner", _INSIDE])
            for name, value in asked.environment.items():
                os.environ[name] = value  # `update` asks what kind of mapping it is given
            os._exit(self._main([*asked.arguments, "--fd", str(asked.channel)]))
        except BaseException as error:  # noqa: BLE001  # nothing may return into the zygote
            os.write(2, f"the jail could not be built: {error}\n".encode())
            os._exit(_EX_OSERR)


def _reap() -> None:
    """Whoever has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _import_all() -> None:
    """What calls need most: the zygote pays for it once, and no jail."""
    for name in ("bash", "python", "calculator", "read_file"):
        tools.load(name)


def _move_modules() -> None:
    """What a jail imports later, it must find at the place where it has it."""
    archive = sys.argv[0]
    sys.path[:] = [_INSIDE if place == archive else place for place in sys.path]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        places = getattr(module, "__path__", None)
        if places is not None and module.__name__.startswith("mas_sandbox"):
            module.__path__ = [_INSIDE + place.removeprefix(archive) for place in places]
