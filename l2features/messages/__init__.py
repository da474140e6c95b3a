"""Pub/Sub messages: their decoding, their ids by chunk, and their outcomes."""
