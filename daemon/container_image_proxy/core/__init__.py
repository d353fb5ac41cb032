"""Reference to verified bytes: resolves, has policy judge, keeps snapshots, verifies streams. Knows no protocol.

Doors: ``assembly`` (everything that a configuration makes), ``serving`` (what is in force), ``proxy``, ``opening`` and
``distribution`` (what faces ask), ``peer`` (who asks), ``snapshots``, ``verified_stream`` and ``verified_part`` (what
they are given), ``snapshot_store`` (what outlives a reload). An import-linter contract shuts the rest.
"""
