"""Findings of checks, each with what to do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from ..core.errors import ConfigError, L2FeaturesError, TableNotFound, message_of
from ..core.transient import is_refused


class Severity(StrEnum):
    """Severity of a finding; ``skipped`` means that the check could not run."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


class Finding(NamedTuple):
    """One line of a report; ``fix`` is what to do, if anything."""

    status: Severity
    text: str
    fix: str = ""
    check: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return {"check": self.check, "status": str(self.status), "text": self.text, "fix": self.fix or None}


def ok(text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(Severity.OK, text)


def warning(text: str, fix: str) -> Finding:
    """Return a finding that may need action."""
    return Finding(Severity.WARNING, text, fix)


def problem(text: str, fix: str) -> Finding:
    """Return a finding that must be corrected."""
    return Finding(Severity.PROBLEM, text, fix)


def skipped(text: str) -> Finding:
    """Return a finding that says why a check was not run."""
    return Finding(Severity.SKIPPED, text)


def problem_of(error: L2FeaturesError, fix: str, role: str = "") -> Finding:
    """Return the problem for an error; ``fix`` tells the user what to do.

    ``role`` is the role that the account needs. A standard text replaces ``fix`` for ConfigError,
    TableNotFound and, with a ``role``, refused access.
    """
    if role and is_refused(error):
        fix = f"grant {role} to the account of this command (gcloud auth application-default login)"
    elif isinstance(error, ConfigError):
        fix = "correct the data sets file as the message above reports"
    elif isinstance(error, TableNotFound):
        fix = "correct store and l2cache_id in the data sets file; l2features ingest --create makes a table"
    return problem(message_of(error), fix)
