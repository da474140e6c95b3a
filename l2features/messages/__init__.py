"""Pub/Sub messages: decoding, parts, outcomes."""
