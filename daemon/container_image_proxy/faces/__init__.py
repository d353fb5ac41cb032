"""What clients speak: each protocol is a room that asks ``core`` and has no logic of its own about images."""
