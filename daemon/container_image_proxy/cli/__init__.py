"""What an administrator types: options, and ``--check``."""
