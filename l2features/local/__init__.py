"""Runs on one machine: the local stack, the sample, the server."""
