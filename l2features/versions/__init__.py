"""Versions: all valid nodes of a data set with their roots and features at a time, as Parquet files."""
