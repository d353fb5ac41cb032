"""container-image-proxy: verified container images over a Unix socket.

Read from the top (``__main__``) the package is the way of a request; from the bottom (``image``), the vocabulary.
"""

__version__ = "0.1.0"
