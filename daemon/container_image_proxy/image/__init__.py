"""The field's nouns, pure: digests, references, platforms, manifests, signatures, documents. No I/O, no clock.

Every module is a door. ``manifest`` has the nouns of ``descriptor`` and ``index``, too, for most who need one need all.
"""
