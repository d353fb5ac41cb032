"""A host that is updated through container-image-proxy: an image becomes an ostree commit, and that a deployment."""
