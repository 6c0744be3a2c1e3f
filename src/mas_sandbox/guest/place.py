"""One path of one call: the grant it falls under, and the way from there."""

from __future__ import annotations

import errno
import os

from mas_sandbox.wire.isolation import WORKSPACE

from .beneath import DIRECTORY, link_target, open_beneath
from .tools import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .beneath import Opener

_MAX_LINKS = 40
_REASONS = {
    errno.EACCES: "permission",
    errno.EDQUOT: "no_space",
    errno.EEXIST: "exists",
    errno.EFBIG: "too_large",
    errno.EISDIR: "is_a_directory",
    errno.ENOENT: "not_found",
    errno.ENOSPC: "no_space",
    errno.ENOTDIR: "not_a_directory",
    errno.ENOTEMPTY: "not_empty",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
}


class Place:
    """`path` as it was spelt; `absolute` without empty and `.` components, beneath `grant`.

    As a context it holds the descriptor of the grant's root, and turns every OSError
    into a ToolFailure that names the path as the caller spelt it.

    `guarded`: a read-only grant lies beneath this one, and the path is to be written.
    Then neither links nor `..` are followed, so that the text of the path is where it
    leads, and it cannot lead in there.
    """

    def __init__(
        self,
        path: str,
        absolute: str,
        grant: str,
        read_only: bool,
        guarded: bool,
        workspace: str,
        opener: Opener | None,
    ) -> None:
        self.absolute = absolute
        self.read_only = read_only
        self.path = path
        self._relative = absolute[len(grant) :].lstrip("/") or "."
        if path.endswith(("/", "/.")):
            self._relative += "/"  # only a directory fits
        self._grant = grant
        self._guarded = guarded
        self._workspace = workspace
        self._open = opener or open_beneath

    def __enter__(self) -> None:
        if self._guarded and ".." in self._relative.split("/"):
            raise self._invalid("must not hold '..': a read-only path lies nearby")
        try:
            self._root = self._open_root()
        except OSError as error:
            raise ToolFailure(
                f"the granted path {self._grant or '/'} is no directory that can be opened: "
                f"{os.strerror(error.errno or 0)}",
                reason=_REASONS.get(error.errno or 0, ""),
            ) from error

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        os.close(self._root)
        if isinstance(error, OSError):
            raise self._worded(error) from error

    def open(self, flags: int) -> int:
        return self._open_relative(self._relative, flags)

    @property
    def names_directory(self) -> bool:
        """Whether its text can name nothing but a directory."""
        return self._relative.rpartition("/")[2] in ("", ".", "..")

    def is_directory(self) -> bool:
        try:
            os.close(self.open(DIRECTORY))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def open_parent(self, create: bool = False, follow: bool = True) -> tuple[int, str]:
        """The directory that holds the last component, and that component, which is not a
        link. Where it is one and `follow`, the same for what it leads to: each step is
        opened beneath the root again. `create`: make directories that are missing.
        """
        relative = self._relative
        for _ in range(_MAX_LINKS):
            head, _, name = relative.rpartition("/")
            if name in ("", ".", ".."):
                raise self._invalid("names a directory or a granted path itself")
            parent = self._open_or_make(head) if create else self._open_directory(head)
            try:
                target = link_target(parent, name) if follow else None
            except OSError:
                os.close(parent)
                raise
            if target is None:
                return parent, name
            os.close(parent)
            if self._guarded:
                break
            if target.startswith("/"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            relative = f"{head}/{target}" if head else target
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def refuse_to_lose(self, grants: list[str]) -> None:
        """Raises ToolFailure where a granted path is this one, or lies beneath it."""
        for grant in grants:
            if f"{grant}/".startswith(f"{self.absolute}/"):
                raise self._invalid(f"cannot be taken away: {grant or '/'} is a granted path")

    def _open_root(self) -> int:
        """Links on the way to a grant are refused: who made them is not known."""
        inside = f"{self._grant}/".startswith(f"{WORKSPACE}/")
        base, below = (
            (self._workspace, self._grant[len(WORKSPACE) :]) if inside else ("/", self._grant)
        )
        root = os.open(base, DIRECTORY | os.O_CLOEXEC)
        if not below:
            return root
        try:
            return self._open(root, below.lstrip("/"), DIRECTORY, symlinks=False)
        finally:
            os.close(root)

    def _open_relative(self, relative: str, flags: int) -> int:
        return self._open(self._root, relative, flags, symlinks=not self._guarded)

    def _open_directory(self, relative: str) -> int:
        return self._open_relative(relative or ".", DIRECTORY)

    def _open_or_make(self, relative: str) -> int:
        try:
            return self._open_directory(relative)
        except FileNotFoundError:
            names = relative.split("/")
        parent = self._open_directory(".")
        for count, name in enumerate(names, 1):
            above = parent
            try:
                parent = self._open_or_make_one("/".join(names[:count]), above, name)
            finally:
                os.close(above)
        return parent

    def _open_or_make_one(self, relative: str, above: int, name: str) -> int:
        # contextlib.suppress would be an import of 0.6 ms at every start.
        try:
            return self._open_directory(relative)
        except FileNotFoundError:
            pass
        try:  # noqa: SIM105
            os.mkdir(name, dir_fd=above)
        except FileExistsError:
            pass  # made meanwhile, or a dangling link: the open tells
        return self._open_directory(relative)

    def _worded(self, error: OSError) -> ToolFailure:
        match error.errno:
            case errno.EXDEV:
                return self._invalid(f"leads outside {self._grant or '/'}", "permission")
            case errno.ELOOP if self._guarded:
                return self._invalid("goes through a symbolic link; name its target instead")
            case errno.ELOOP:
                return self._invalid("goes through too many symbolic links")
            case errno.ENAMETOOLONG:
                return self._invalid("is too long")
            case _:
                return answered(self.path, error)

    def _invalid(self, what: str, reason: str = "") -> ToolFailure:
        return ToolFailure(f"path {shown(self.path)} {what}", "invalid_request", reason)


def answered(path: str, error: OSError) -> ToolFailure:
    """What the file system answered for `path`, worded."""
    number = error.errno or 0
    match number:
        case errno.ENXIO:
            message = "a FIFO, a socket or a device, not a regular file"
        case errno.ENOTEMPTY:
            message = "the directory is not empty; set recursive to delete all it holds"
        case _:
            message = os.strerror(number)
    return ToolFailure(f"{shown(path)}: {message}", reason=_REASONS.get(number, ""))


def shown(path: str) -> str:
    """The path as a message names it: quoted, on one line, at most 200 characters."""
    return repr(path if len(path) <= 200 else f"{path[:200]}...")
