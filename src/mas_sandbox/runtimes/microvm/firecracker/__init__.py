"""Firecracker: a small virtual machine monitor for KVM, driven through its Unix socket."""
