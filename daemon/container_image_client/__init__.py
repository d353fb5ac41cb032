"""The client of container-image-proxy: a library, and the program ``cip``.

    from container_image_client import Client

    client = Client("/run/container-image-proxy/os.sock")
    for blob in client.blobs():
        with client.open(blob.digest) as reader:
            ...  # a file to read; a lost connection goes unnoticed

It imports nothing of the daemon, and needs the standard library only, but for layers that are compressed with zstd.
"""

from container_image_client.client import Client
from container_image_client.documents import Descriptor, Image, Manifest
from container_image_client.errors import ImageClientError

__all__ = ["Client", "Descriptor", "Image", "ImageClientError", "Manifest"]

__version__ = "0.1.0"
