"""Sigstore signatures and bundles: keys, certificates, transparency logs, statements."""
