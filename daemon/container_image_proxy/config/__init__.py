"""Reads configuration files into frozen values: instance files, and the containers ecosystem's own files.

It reads files and asks the system for users, mounts and the host's platform. It opens no connection and runs no
program. Each module reads one kind of file or finds files, and other rooms may import every module.
"""
