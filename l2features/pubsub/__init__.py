"""Pub/Sub: subscriptions, topics, dead letters."""
