"""The checks of a deployment in order, and which checks each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..core.errors import L2FeaturesError
from .deployment import Deployment
from .findings import Finding, Severity, problem_of, skipped
from .graph_checks import graph_check, segmentation_check, token_check
from .queue_checks import subscriptions_check, topics_check
from .row_checks import bits_check, ids_check, rows_check
from .table_checks import coverage_check, meta_check, table_check, timestamp_check

RETRY = "run this command again; if the error stays, check addresses, network and credentials"


class Check(NamedTuple):
    """A check: its name, the checks that must pass first, and the role that an account needs for it."""

    name: str
    run: Callable[[Deployment], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    role: str = ""


CHECKS = (
    Check("table", table_check, role="roles/bigtable.reader on the table"),
    Check("meta", meta_check, ("table",)),
    Check("timestamp", timestamp_check, ("table",)),
    Check("token", token_check),
    Check("graph", graph_check, ("token",)),
    Check("segmentation", segmentation_check, ("table", "graph")),
    Check("ids", ids_check, ("table",)),
    Check("bits", bits_check, ("table", "segmentation")),
    Check("coverage", coverage_check, ("table", "segmentation")),
    Check("topics", topics_check),
    Check("subscriptions", subscriptions_check),
    Check("rows", rows_check, ("table", "segmentation", "bits")),
)


def examine(deployment: Deployment) -> Iterator[Finding]:
    """Run the checks and yield their findings; skip a check if one that it needs failed or was skipped."""
    failed: set[str] = set()
    for check in CHECKS:
        for finding in _findings(check, deployment, failed):
            if finding.status in (Severity.PROBLEM, Severity.SKIPPED):
                failed.add(check.name)
            yield finding._replace(check=check.name)


def _findings(check: Check, deployment: Deployment, failed: set[str]) -> Iterator[Finding]:
    if lacking := [name for name in check.needs if name in failed]:
        yield skipped(f"not run, since these checks did not pass: {', '.join(lacking)}")
        return
    try:
        yield from check.run(deployment)
    except L2FeaturesError as error:
        yield problem_of(error, RETRY, check.role)
