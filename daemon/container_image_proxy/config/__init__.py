"""Files into frozen values: instance files and the containers ecosystem's own configuration.

Reads files, and asks the system for users, mounts and its own name; connects to nothing and runs nothing. Every module
is a door: each reads one kind of file, or says where they are.
"""
