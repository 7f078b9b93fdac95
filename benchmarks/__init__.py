"""Measurements against rivals, each a command: `python -m benchmarks.train`."""
