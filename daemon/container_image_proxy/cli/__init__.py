"""The command line: options, and ``--check``."""
