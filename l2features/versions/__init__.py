"""Versions: all valid nodes of a data set with their roots and features at a given time, as Parquet files."""
