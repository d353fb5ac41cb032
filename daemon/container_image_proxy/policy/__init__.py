"""Decides whether an image may be used, by containers-policy.json(5). It never uses the network and it fails closed.

Other rooms may import these modules: ``model`` (the policy, read from its file), ``evaluate`` (the decision),
``receipt`` (the record of a decision), ``budget`` (the time that a decision may take), ``gpg`` and ``openpgp`` (where
gpg runs, and its key rings), ``scope`` (the transports that a policy can name). An import-linter contract forbids the
others.
"""
