"""The fuzz harness behind ``contrib/fuzz``."""
