"""The command line. A command is a file here with a function `command`, named in `main`."""
