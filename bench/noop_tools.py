"""An operator's tools that do nothing."""

CAPABILITIES = {"noop": [], "refused": ["network"]}


def noop() -> int:
    """Does nothing, in a sandbox."""
    return 0


def refused() -> int:
    """Does nothing, and is refused first: the shipped policy grants no network."""
    return 0
