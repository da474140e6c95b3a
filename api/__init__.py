"""The HTTP API of the L2 feature cache."""
