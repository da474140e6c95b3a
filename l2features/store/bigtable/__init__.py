"""The Bigtable store, and its decoder of ReadRows answers."""
