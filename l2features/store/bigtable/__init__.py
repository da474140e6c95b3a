"""The Bigtable store, and a compiled decoder for Bigtable's ReadRows responses."""
