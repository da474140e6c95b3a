"""Apply messages to tables, and record the freshness of the tables."""
