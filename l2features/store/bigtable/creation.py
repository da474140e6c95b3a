"""Making a Bigtable table."""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import timedelta

from google.api_core.exceptions import AlreadyExists
from google.cloud import bigtable
from google.cloud.bigtable.column_family import GarbageCollectionRule, MaxAgeGCRule, MaxVersionsGCRule


def create_table(project: str, instance: str, name: str, timeout_s: float) -> None:
    """Make a table; one that exists stays as it is. Raises GoogleAPIError or GoogleAuthError."""
    with closing(bigtable.Client(project=project, admin=True)) as admin, suppress(AlreadyExists):
        place = admin.instance(instance)
        table = place.table(name)
        rules = {family: table.column_family(family, rule).to_pb() for family, rule in families().items()}
        admin.table_admin_client.create_table(
            parent=place.name, table_id=name, table={"column_families": rules}, timeout=timeout_s
        )


def families() -> dict[str, GarbageCollectionRule | None]:
    """Column families of a table, as kvdbclient makes them."""
    return {
        "0": None,
        "1": MaxVersionsGCRule(1),
        "2": None,
        "3": MaxAgeGCRule(timedelta(days=365)),
        "4": None,
    }
