"""The field's nouns, pure: digests, references, platforms, manifests and their conversion. No I/O, no threads."""
