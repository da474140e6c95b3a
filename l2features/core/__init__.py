"""What everything stands on: ids, geometry, the table of attributes, rows. No input or output."""
