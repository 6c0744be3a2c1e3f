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


# Clients of HTTP alone read some of these, others take the lower-case ones only (curl
# ignores HTTP_PROXY). The last is HTTP too: it takes CONNECT to any port, while socks5h://
# ends Python's HTTP clients at their start where the package that speaks SOCKS is missing.
_PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_TERM = "xterm-256color"
_NO_PROXY = "localhost,127.0.0.1,::1"


def build(
    added: dict[str, str],
    workspace: str,
    temporary: str,
    proxy_port: int = 0,
    *,
    terminal: bool = False,
) -> dict[str, str]:
    """`proxy_port`: of loopback, where the way out is; 0 where there is none; `terminal`:
    whether there is one, whose kind nobody may know but who shows it: TERM can be given.

    Nothing that is added takes the place of the proxy variables: the host's own lead
    nowhere in here. Raises Refused, `invalid_request`, for a name or value that must
    not be set.
    """
    for name, value in added.items():
        _check(name, value)
    base = {"PATH": PATH, "HOME": workspace, "TMPDIR": temporary, "LANG": "C.UTF-8"}
    if terminal:
        base["TERM"] = _TERM
    return base | added | (_proxied(proxy_port) if proxy_port else {})


def _proxied(port: int) -> dict[str, str]:
    values = dict.fromkeys(_PROXY_NAMES, f"http://127.0.0.1:{port}") | {"NO_PROXY": _NO_PROXY}
    return values | {name.lower(): value for name, value in values.items()}


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
