"""Reference to verified bytes: resolves, has policy judge, keeps snapshots, verifies streams. Knows no protocol."""
