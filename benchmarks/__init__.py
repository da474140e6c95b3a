"""Commands that measure, one a file."""
