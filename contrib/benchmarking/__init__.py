"""Measurements of container-image-proxy beside skopeo's proxy and plain curl; ``contrib/benchmark`` runs them."""
