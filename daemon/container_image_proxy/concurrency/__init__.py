"""Shared work of threads: cancellation, single flight, lazy values, and a limit on memory. Knows nothing of images."""
