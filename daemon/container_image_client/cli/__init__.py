"""The program ``cip``: options, commands, what they print, and exit codes."""
