"""Benchmarks: what the scheduler reaches beside bare clients that do the same work."""
