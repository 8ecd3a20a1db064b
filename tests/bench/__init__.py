"""Measurements: ``python -m tests.bench.NAME`` prints a table. Nothing here fails because a machine is slow."""
