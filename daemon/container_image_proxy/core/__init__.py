"""From a reference to verified bytes: resolves images, has policy decide, keeps snapshots, verifies streams.

Must not know any protocol of clients.

Doors: ``assembly`` (everything that a configuration makes), ``serving`` (what is in force), ``proxy``, ``opening`` and
``distribution`` (what faces ask), ``peer`` (who asks), ``snapshots``, ``verified_stream`` and ``verified_part`` (what
they are given), ``snapshot_store`` (what outlives a reload). An import-linter contract shuts the rest.
"""
