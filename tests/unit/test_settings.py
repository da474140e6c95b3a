"""Tests of the server's settings from environment variables."""

from __future__ import annotations

import re

import pytest

from api.config import load_settings
from l2features.core.errors import ConfigError


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("L2CACHE_WORKERS", "many", ""),
        ("L2CACHE_BIND", "host", "expected HOST:PORT"),
        ("PCGL2CACHE_URL_PREFIX", "é", "expected letters"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    """A server that cannot start logs this message (`tests/e2e/test_server.py`)."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{re.escape(variable)}='{value}': {expected}"):
        load_settings()
