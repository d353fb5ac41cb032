"""container-image-proxy: serves verified container images over a Unix socket.

The rooms are layers (contrib/adr/0027). From ``__main__`` down they follow the way of a request; ``image`` has the
nouns.
"""

__version__ = "0.1.0"
