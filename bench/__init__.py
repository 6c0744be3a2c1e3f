"""The benchmark harness; `scripts/bench --help`."""
