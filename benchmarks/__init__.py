"""Benchmarks: one command per file, and the modules that they share."""
