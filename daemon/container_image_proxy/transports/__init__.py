"""Where an image's bytes come from: one module for each transport, and ``table``, the one list of them.

Doors: ``table`` (from text to references), ``source`` (what a source and its readers are), ``readers``,
``archives.decompression`` and ``archives.spool`` (by which ``core`` unpacks layers). An import-linter contract shuts
the rest: nothing outside knows a transport by its name.
"""
