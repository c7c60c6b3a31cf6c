"""Other tools on one checkpoint and its bundle: ``python -m benchmarks.works_with``."""
