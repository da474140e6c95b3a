"""Decode Pub/Sub messages, group their ids by chunk, and decide their outcomes."""
