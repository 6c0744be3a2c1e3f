"""What the host itself calls in a sandbox: files, directories, archives, ports.

These are in no manifest, so that no caller of `execute` can name one. Each runs as a call
does, in a process of its own and behind the same walls. Those that stream read their
standard input and write their standard output by pieces of `PIECE` bytes; the value they
return at the end is small.
"""

PIECE = 64 * 1024
