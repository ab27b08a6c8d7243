"""The commands: a docstring that is the head of the help, and `main`, which scripts and installed commands call."""
