"""Decides whether an image may be used. Never touches the network; fails closed."""
