"""One module at a time; no I/O but files."""
