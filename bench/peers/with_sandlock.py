"""sandlock: Landlock and seccomp, no namespaces."""

from loop import serve
from sandlock import Sandbox

_READABLE = ["/usr", "/lib", "/lib64", "/bin", "/etc"]


def _fresh(argv: list[str]) -> str:
    return Sandbox(fs_readable=_READABLE).run(argv).stdout.decode()


serve(_fresh)
