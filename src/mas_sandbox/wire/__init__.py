"""What crosses the channel: frames, messages, error codes and their bounds.

Standard library only, and no `typing` or `dataclasses` at run time: this room
is carried into every sandbox, where each import is paid for at every start.
"""
