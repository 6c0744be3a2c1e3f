"""What a daemon asks for, in bubblewrap's own words (bwrap(1)).

One description of a jail drives both: a word that is not known here is refused, so that
what bubblewrap would do, this does too, or not at all.
"""

from __future__ import annotations

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    Step = tuple[str, list[str], int, int]
    """A word that changes the tree, what follows it, and the mode and size said before it;
    -1 where none was."""

_NAMESPACES = {
    "--unshare-user": system.NEWUSER,
    "--unshare-ipc": system.NEWIPC,
    "--unshare-pid": system.NEWPID,
    "--unshare-net": system.NEWNET,
    "--unshare-uts": system.NEWUTS,
    "--unshare-cgroup-try": system.NEWCGROUP,
}
_STEPS = {
    "--dir": 1,
    "--ro-bind": 2,
    "--ro-bind-try": 2,
    "--symlink": 2,
    "--file": 2,
    "--proc": 1,
    "--dev": 1,
    "--tmpfs": 1,
    "--remount-ro": 1,
}
"""How many words follow each."""
_SETTINGS = frozenset({"--cap-drop", "--uid", "--gid", "--hostname", "--chdir", "--add-seccomp-fd"})
"""What is said with one word after it."""
_ALWAYS = frozenset(
    {*_NAMESPACES, *_SETTINGS, "--disable-userns", "--die-with-parent", "--new-session"}
)
"""What every jail is asked to have. Without one of them there is none."""


class UnknownError(Exception):
    """A word that means nothing here."""


class Description:
    """`namespaces`: flags of clone(2), all that there are; `steps`: what the tree is made of,
    in order; `filters`: descriptors of seccomp programs."""

    __slots__ = ("directory", "filters", "group", "hostname", "namespaces", "steps", "user")

    def __init__(self, words: list[str]) -> None:
        """Raises UnknownError; ValueError for what is no number."""
        self.namespaces = system.NEWNS
        self.steps, settings = _split(words)
        if missing := _ALWAYS - settings.keys():
            raise UnknownError(f"every jail has {', '.join(sorted(missing))}")
        if settings["--cap-drop"] != ["ALL"]:
            raise UnknownError("every jail has --cap-drop ALL")
        for word, flag in _NAMESPACES.items():
            self.namespaces |= flag if word in settings else 0
        self.user, self.group = (int(settings[word][0]) for word in ("--uid", "--gid"))
        if self.user < 1 or self.group < 1:
            raise UnknownError("nobody is root in a jail")
        self.hostname = settings["--hostname"][0]
        self.directory = settings["--chdir"][0]
        self.filters = [int(number) for number in settings["--add-seccomp-fd"]]


def steps_of(words: list[str]) -> list[Step]:
    """Of a tree alone. Raises UnknownError, ValueError."""
    steps, settings = _split(words)
    if settings:
        raise UnknownError(f"{', '.join(settings)}: only what the tree is made of")
    return steps


def _split(words: list[str]) -> tuple[list[Step], dict[str, list[str]]]:
    """The steps, and every other word with all that was said after it."""
    steps: list[Step] = []
    settings: dict[str, list[str]] = {}
    mode = size = -1
    pending = words[::-1]
    while pending:
        word = pending.pop()
        if word in _STEPS:
            steps.append((word, [_next(word, pending) for _ in range(_STEPS[word])], mode, size))
            mode = size = -1
        elif word == "--perms":
            mode = int(_next(word, pending), 8)
        elif word == "--size":
            size = int(_next(word, pending))
        elif word in _SETTINGS:
            settings.setdefault(word, []).append(_next(word, pending))
        elif word in _ALWAYS:
            settings[word] = []
        else:
            raise UnknownError(f"{word!r} is not known here")
    return steps, settings


def _next(word: str, pending: list[str]) -> str:
    if not pending:
        raise UnknownError(f"{word} wants more words")
    return pending.pop()
