"""Audit: compares the nodes of a graph with the rows of a table, and repairs the table."""
