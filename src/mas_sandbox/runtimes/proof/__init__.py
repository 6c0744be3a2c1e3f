"""The self-test: each control is attacked once for each boot of the host, before it is claimed."""
