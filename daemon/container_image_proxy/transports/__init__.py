"""Where an image's bytes come from: one module a transport, ``table`` the one list of them.

Doors: ``table`` (references to sources), ``source`` (what a source and its readers are), ``readers``,
``archives.decompression`` and ``archives.spool`` (what unpacks a layer for whoever serves one). An import-linter
contract shuts the rest: nothing outside knows a transport by its name.
"""
