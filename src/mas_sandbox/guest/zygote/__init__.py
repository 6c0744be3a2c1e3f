"""A toolrunner that makes jails out of forks of itself, where a daemon runs one for that.

It never hears a guest: it reads from its daemon alone, and a jail holds nothing of it.
"""
