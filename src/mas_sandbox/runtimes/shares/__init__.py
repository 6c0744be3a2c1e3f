"""Host directories inside sandboxes: opened once by descriptor, then bound or served."""
