"""The server's log: JSON lines without secrets."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

from flask import g, has_request_context
from gunicorn.config import Config
from gunicorn.glogging import Logger

from l2features.local.log_lines import JsonLines, log_uncaught

OURS = ("l2features", "gunicorn")
"""Loggers that use the configured level; other loggers log warnings and errors only."""
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic)(\s+)[^\s'\",]+")
log = logging.getLogger("l2features.api")


def configure(level: str = "info") -> None:
    """Log to stderr as JSON lines: messages, warnings and uncaught errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RequestLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    log_uncaught(log)


class RequestLines(JsonLines):
    """Formats log lines as JSON; adds the level and the request id, and removes tokens and credentials."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["level"] = record.levelname.lower()
        if has_request_context() and "request_id" in g:
            log_data["request_id"] = g.request_id
        super().add_fields(log_data, record, message_dict)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {k: scrubbed(v) if isinstance(v, str) else v for k, v in log_data.items()}


def scrubbed(text: str) -> str:
    """Return a text without tokens and credentials."""
    if len(text.split(maxsplit=1)) > 1:  # most texts are single words
        text = _AUTHORIZATION.sub(r"\1\2…", text)
    if "=" not in text:
        return text
    # Not at import: middle_auth_client reads the environment at import, before gunicorn.conf.py sets it.
    from .auth import without_secrets

    return without_secrets(text)


class ServerLog(Logger):
    """Writes gunicorn's log as JSON lines. Has no access log, because the application logs requests."""

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        configure(cfg.loglevel)
        self.error_log.propagate = True

    def access(self, *_args: Any) -> None:
        """Log nothing."""
