"""What goes on in a named sandbox besides tool calls: processes, files, changes."""
