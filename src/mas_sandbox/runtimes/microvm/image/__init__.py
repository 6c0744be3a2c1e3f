"""Guest images: a kernel, an initramfs and a root file system, built once and kept.

`store` holds what has been built, `build` makes it. A daemon reads `store` only.
"""
