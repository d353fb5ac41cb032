"""Logging in to registries: credentials and their helpers, challenges, tokens and their realms."""
