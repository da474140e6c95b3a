"""Foundations without I/O: ids, geometry, the table of attributes, rows."""
