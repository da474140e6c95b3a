"""A long test of the updater: idle CPU use, hostile messages and growth."""
