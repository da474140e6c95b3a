"""The names of the datastack and the table in the tests of API clients."""

from __future__ import annotations

DATASTACK, TABLE = "fixture_datastack", "fixture_v2"
