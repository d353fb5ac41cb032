"""Threads that share: cancellation, single flight, values made once, and a bound on memory. Knows nothing of images."""
