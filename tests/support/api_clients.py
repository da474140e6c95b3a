"""Helpers of the tests of api clients."""

from __future__ import annotations

DATASTACK, TABLE = "fixture_datastack", "fixture_v2"
