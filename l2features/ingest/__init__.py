"""Batch ingest as plain functions; the Beam pipelines are in ``beam_jobs``."""
