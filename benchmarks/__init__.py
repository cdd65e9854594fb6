"""Benchmarks: quality on held-out ledgers, serving speed, and what the PRM costs."""
