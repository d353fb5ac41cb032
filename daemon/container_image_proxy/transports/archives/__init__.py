"""Tar archives as sources of images: read where they lie, by offset, and never extracted."""
