"""The environment of a call, built from nothing: none of the toolrunner's own is passed on."""

from __future__ import annotations

from mas_sandbox.wire.errors import ErrorCode

from .refusal import Refused

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Names that make the loader, a shell or an interpreter run code of someone's choosing
# before the tool's own: the loader's list is in ld.so(8), bash's in bash(1).
_STEERING_NAMES = frozenset(
    {
        "BASHOPTS",
        "BASH_ENV",
        "CDPATH",
        "ENV",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "HOSTALIASES",
        "IFS",
        "JAVA_TOOL_OPTIONS",
        "LOCPATH",
        "NLSPATH",
        "NODE_OPTIONS",
        "PATH",
        "PERL5LIB",
        "PERL5OPT",
        "PROMPT_COMMAND",
        "PS4",
        "RUBYLIB",
        "RUBYOPT",
        "SHELLOPTS",
    }
)
_STEERING_PREFIXES = ("BASH_FUNC_", "DYLD_", "LD_", "PYTHON")


def build(added: dict[str, str], workspace: str, temporary: str) -> dict[str, str]:
    """Raises Refused, `invalid_request`, for a name or value that must not be set."""
    for name, value in added.items():
        _check(name, value)
    base = {"PATH": PATH, "HOME": workspace, "TMPDIR": temporary, "LANG": "C.UTF-8"}
    return base | added


def _check(name: str, value: str) -> None:
    if not name or "=" in name or "\0" in name or "\0" in value:
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            f"the environment variable {name[:80]!r} cannot exist; names hold no '=' and no NUL",
        )
    if name in _STEERING_NAMES or name.startswith(_STEERING_PREFIXES):
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            f"the environment variable {name[:80]} changes what programs run; set it inside the"
            " tool's own script instead",
        )
