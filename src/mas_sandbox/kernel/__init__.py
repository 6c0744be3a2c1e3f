"""What runs code inside a sandbox and keeps its variables.

The daemon sends these files' source to a Python of the sandbox's own: so a kernel always
speaks the daemon's words, whatever image or root file system it finds itself in. Standard
library only, and nothing else of ours: none of it is installed where it runs.
"""
