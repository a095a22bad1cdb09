"""The commands. One module per noun; what is heavy to import is imported inside a command."""
