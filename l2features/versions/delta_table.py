"""A Delta Lake table over the files of fresh versions, which have no base.

The table is in the folder of all versions. Each commit replaces the table's list of files by the ``by_root``
files of one version. Readers see the version that was committed last. A commit writes and deletes no data
files, so Delta's time travel can reach versions that were committed earlier.
"""

from __future__ import annotations

import json
from typing import Any

from ..core.errors import ConfigError, VersionError
from ..core.extras import naming_extras
from .columns import node_schema
from .folders import Folder
from .manifest import BY_ROOT, Manifest, VersionFile

NUMBER, JOB = "l2features.version", "l2features.job"
"""Names of a commit's metadata: the version's number, and the id of the run that made the version."""


def check_delta(base: int | None) -> None:
    """Raise ConfigError if deltalake is not installed, or if the version is a renewal of ``base``."""
    with naming_extras("delta"):
        import deltalake  # noqa: F401
    if base is not None:
        raise ConfigError(
            f"--delta with --base {base}: a Delta table cannot leave out retired roots: "
            "expected a fresh version, without --base or with --rebase"
        )


def commit_version(folder: Folder, manifest: Manifest) -> None:
    """Commit a fresh version to the Delta table, unless its job made the last commit. Raises VersionError."""
    import deltalake
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    schema = deltalake.Schema.from_arrow(node_schema())
    actions = [_add(file, manifest) for file in manifest.layers[0].of(BY_ROOT)]
    about = deltalake.CommitProperties({NUMBER: str(manifest.number), JOB: manifest.job})
    try:
        if not deltalake.DeltaTable.is_deltatable(folder.url):
            create_table_with_add_actions(folder.url, schema, actions, commit_properties=about)
            return
        table = deltalake.DeltaTable(folder.url)
        if table.history(1)[0].get(JOB) != manifest.job:
            table.create_write_transaction(actions, "overwrite", schema, commit_properties=about)
    except (DeltaError, OSError) as error:
        raise VersionError(f"cannot commit to the Delta table {folder.url}: {error}") from error


def _add(file: VersionFile, manifest: Manifest) -> Any:
    from deltalake.transaction import AddAction

    low, high = file.node_range
    stats = {
        "numRecords": file.rows,
        "minValues": {"root_id": file.min_root, "l2_id": low},
        "maxValues": {"root_id": file.max_root, "l2_id": high},
        "nullCount": {"root_id": 0, "l2_id": 0},
    }
    made = int(manifest.created.timestamp() * 1_000)
    return AddAction(file.path, file.bytes, {}, made, True, json.dumps(stats))
