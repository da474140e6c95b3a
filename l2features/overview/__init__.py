"""The state of a table at a glance: its status, a map of its chunks, and a sample of its nodes."""
