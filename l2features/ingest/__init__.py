"""Batch ingest: plain functions; the pipelines are in ``beam_jobs``."""
