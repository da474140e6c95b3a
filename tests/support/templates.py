"""The message of tests that are skipped, or fail in CI, because gcloud is missing."""

from __future__ import annotations

HOW_TO_GET_GCLOUD = "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
