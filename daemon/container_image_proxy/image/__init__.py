"""The nouns of container images: digests, references, platforms, manifests, signatures, documents. No I/O and no clock.

Other rooms may import every module. ``manifest`` also exports the types of ``descriptor`` and ``index``, because most
callers need them together.
"""
