"""The scheduler's own HTTP pages: probes, metrics, and a read-only look into what it holds."""
