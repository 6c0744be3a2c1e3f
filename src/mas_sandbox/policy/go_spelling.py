"""The Go MAS SDK's spelling of a policy, turned into ours.

Go marshals its struct without tags and always writes every field, so that its
zero values (null, 0, "") mean "not mentioned". `Network` is the exception: a
disabled network is a statement, and stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_NANOSECONDS = 1_000_000
_MEBIBYTE = 1024 * 1024


def _milliseconds(nanoseconds: Any) -> Any:
    if type(nanoseconds) is not int:
        raise ValueError("'Timeout' is a whole number of nanoseconds")
    return max(1, nanoseconds // _NANOSECONDS) if nanoseconds > 0 else nanoseconds


def _mebibytes(count: Any) -> Any:
    if type(count) is not int:
        raise ValueError("'MemoryLimit' is a whole number of bytes")
    return count // _MEBIBYTE


def _grants(paths: Any) -> Any:
    if not isinstance(paths, list):
        raise ValueError("'AllowedPaths' is a list of absolute paths")
    return [{"path": path, "mode": "rw"} for path in paths]


def _network(network: Any) -> Any:
    if not isinstance(network, Mapping) or not network.keys() <= {"Enabled", "AllowedHosts"}:
        raise ValueError("'Network' has the fields Enabled and AllowedHosts, and no other")
    enabled, hosts = network.get("Enabled", False), network.get("AllowedHosts")
    if not isinstance(enabled, bool):
        raise ValueError("'Network.Enabled' is true or false")
    if not enabled:
        return {"hosts": []}
    # Enabled without a list names no host: the layer above says which.
    return None if hosts is None else {"hosts": hosts}


def _same(value: Any) -> Any:
    return value


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "AllowedTools": ("tools", _same),
    "AllowedCaps": ("capabilities", _same),
    "Workdir": ("workdir", _same),
    "AllowedPaths": ("paths", _grants),
    "EnvWhitelist": ("env", _same),
    "Network": ("network", _network),
    "Timeout": ("timeout_ms", _milliseconds),
    "MemoryLimit": ("mem_mb", _mebibytes),
    "MaxConcurrent": ("max_concurrent", _same),
}


def translated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with Go names and units replaced by ours.

    Raises ValueError naming the Go field where its value makes no sense, or where
    the same thing is said in both spellings.
    """
    ours = {name: value for name, value in fields.items() if name not in _FIELDS}
    for name, (our_name, convert) in _FIELDS.items():
        if name not in fields:
            continue
        if our_name in ours:
            raise ValueError(f"{name!r} and {our_name!r} say the same thing; keep one")
        value = fields[name]
        # `is`, because False == 0 and an empty list means "nothing", not "unsaid".
        unsaid = value is None or (type(value) in (int, str) and not value)
        if not unsaid:
            ours[our_name] = convert(value)
    return ours
