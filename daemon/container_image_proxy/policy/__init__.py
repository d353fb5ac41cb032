"""Decides whether an image may be used. Never touches the network; fails closed.

Doors: ``model`` (the policy, read from its file), ``evaluate`` (the decision), ``receipt`` (what it leaves behind),
``budget`` (the time that it may take), ``gpg`` and ``openpgp`` (where gpg may work, and its key rings), ``scope`` (the
transports that a policy can name). An import-linter contract shuts the rest.
"""
