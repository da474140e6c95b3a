"""The message to show if gcloud is missing. Tests that need gcloud are then skipped; in CI, they fail."""

from __future__ import annotations

HOW_TO_GET_GCLOUD = "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
