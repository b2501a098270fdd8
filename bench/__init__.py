"""Benchmarks: ranking and search quality against peers; run from the repository root with ``python -m bench.NAME``."""
