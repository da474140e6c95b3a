"""What tests and benchmarks share: emulators, servers, synthetic data, reference implementations."""
