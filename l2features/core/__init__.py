"""Foundations without I/O: ids, geometry, definitions of the attributes, rows of a table of features."""
