"""What clients speak. Each protocol is a room, which asks ``core`` and decides nothing about images itself."""
