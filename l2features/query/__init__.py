"""Read rows of a table through a cache, and convert them to JSON and Arrow."""
