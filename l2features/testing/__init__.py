"""Shared by tests and benchmarks: emulators, servers, synthetic data, reference implementations."""
