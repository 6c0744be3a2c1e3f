"""mas-sandbox: runs AI agents' tool calls behind walls.

This package's root imports nothing, so that the toolrunner inside a sandbox,
which carries only `wire`, `tools` and `guest`, starts as fast as Python does.
"""

__version__ = "0.1.0"
