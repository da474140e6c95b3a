"""The message of tests that need gcloud."""

from __future__ import annotations

HOW_TO_GET_GCLOUD = "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
