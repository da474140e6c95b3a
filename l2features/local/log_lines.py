"""Logs on stderr: plain lines on a terminal, else JSON lines with the fields of Google Cloud Logging.

Results on stdout, and the last line of a command that failed (``error: …``), are not log lines.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from ..core.errors import L2FeaturesError
from ..core.times import iso_text

PLAIN = "%(levelname)s %(name)s: %(message)s"
FIELDS = {"name": "logger", "process": "pid"}
"""Attributes of a log record, and their names in a JSON line."""


class JsonLines(JsonFormatter):
    """Formats a record as a line of JSON: time (UTC), severity, message, logger and pid."""

    def __init__(self) -> None:
        super().__init__(["message", *FIELDS], rename_fields=FIELDS, json_ensure_ascii=True)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["time"] = iso_text(datetime.fromtimestamp(record.created, UTC), "milliseconds")
        log_data["severity"] = record.levelname
        super().add_fields(log_data, record, message_dict)


def configure() -> None:
    """Log to stderr: loggers of l2features from level INFO on, all others from WARNING on.

    Leaves logging as it is if the process already has log handlers.
    """
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter(PLAIN))
    else:
        handler.setFormatter(JsonLines())
        log_uncaught(logging.getLogger("l2features"))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("l2features").setLevel(logging.INFO)


def log_uncaught(log: logging.Logger) -> None:
    """Send uncaught errors to ``log``, and Python's warnings to the logger ``py.warnings``."""

    def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, L2FeaturesError):
            log.critical("%s", error)
        elif not issubclass(kind, KeyboardInterrupt):
            log.critical("uncaught error", exc_info=(kind, error, traceback))

    def uncaught_in_thread(failed: threading.ExceptHookArgs) -> None:
        error = failed.exc_value or failed.exc_type()
        fields = {"thread_name": failed.thread.name if failed.thread else None}
        log.error("uncaught error in a thread", exc_info=error, extra=fields)

    logging.captureWarnings(True)
    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
