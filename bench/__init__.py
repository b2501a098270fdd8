"""Benchmarks: quality and speed against baselines; run from the repository root with ``python -m bench.NAME``."""
