"""Manifests of versions: the content of `manifest.json` in a version's folder.

A layer is the files that one version wrote; a version is a list of layers, oldest first. A fresh version has
one layer. A renewed version has the layers of its base and a new layer. The new layer has the rows of added
roots, and a file `retired` with the ids of retired roots.

A row of a layer belongs to the version unless the file `retired` of a later layer lists the row's root
(`Manifest.removing`). A root is also retired, and added again, if features of its nodes were missing in the
base and have been computed since.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import DamagedVersion, UnknownFormat, VersionNotFound
from ..store.formats import check_version
from ..store.notes import Time
from .folders import Folder, Format

FORMAT = 1
"""Format of the manifests that this code writes, and the newest format that it reads."""
MANIFEST = "manifest.json"
Layout = Literal["by_root", "by_node", "roots", "retired", "missing_nodes"]
BY_ROOT: Final = "by_root"
BY_NODE: Final = "by_node"
ROOTS: Final = "roots"
RETIRED: Final = "retired"
MISSING_NODES: Final = "missing_nodes"
_Count = Annotated[int, Field(ge=0)]
_Id = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class VersionFile(_Model):
    """One Parquet file; ``path`` is relative to the folder of all versions."""

    path: str = Field(pattern=r"^\d{6}/[a-z_]+(/[a-z0-9-]+)?\.parquet$")
    layout: Layout
    rows: _Count
    bytes: _Count
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    min_root: _Id
    max_root: _Id
    min_node: _Id | None = None
    max_node: _Id | None = None

    @property
    def node_range(self) -> tuple[int, int]:
        """A tuple: the smallest node id; the largest node id. If they are unknown, 0 and 2^63 - 1."""
        low, high = self.min_node, self.max_node
        return 0 if low is None else low, (1 << 63) - 1 if high is None else high


class Layer(_Model):
    """The files that one version wrote."""

    version: int = Field(ge=1)
    files: tuple[VersionFile, ...]

    def of(self, layout: Layout) -> list[VersionFile]:
        """Return this layer's files of a layout, in the order of their rows' ids."""
        return [file for file in self.files if file.layout == layout]


class Totals(_Model):
    """Counts of roots and nodes.

    The features of ``missing`` nodes had not been computed, those of ``empty`` nodes could not be computed.
    """

    nodes: _Count
    roots: _Count
    missing: _Count
    empty: _Count


class Manifest(_Model):
    """A version's manifest: the data that the version was made from, its files and its counts."""

    format: int = FORMAT
    number: int = Field(ge=1)
    timestamp: Time = Field(description="Time at which the nodes and roots are valid (UTC).")
    created: Time = Field(description="When the version was made (UTC).")
    dataset: str
    l2cache_id: str
    graph_id: str
    cv_path: str
    box: str = Field(description="Chunks of the version, x0:x1,y0:y1,z0:z1.")
    software: str
    job: str = Field("", description="Identifies the run that made the version.")
    base: int | None = Field(
        None,
        ge=1,
        description="Number of the older version that this version renews; null for a fresh version.",
    )
    layers: tuple[Layer, ...] = Field(min_length=1)
    totals: Totals

    def files(self, layout: Layout) -> list[tuple[int, VersionFile]]:
        """Return the files of a layout, each with the index of its layer."""
        return [(i, file) for i, layer in enumerate(self.layers) for file in layer.of(layout)]

    def removing(self, layer: int) -> list[VersionFile]:
        """Return the `retired.parquet` files of the layers after ``layers[layer]``; each lists retired roots.

        Rows of these roots in ``layers[layer]`` do not belong to the version.
        """
        return [file for later in self.layers[layer + 1 :] for file in later.of("retired")]

    def to_json(self) -> bytes:
        """Return the manifest as JSON."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def folder_name(number: int) -> str:
    """Return the name of a version's folder.

    >>> folder_name(7)
    '000007'
    """
    return f"{number:06d}"


def manifest_path(number: int) -> str:
    """Return the path of a version's manifest in the folder of all versions."""
    return f"{folder_name(number)}/{MANIFEST}"


def version_numbers(folder: Folder) -> list[int]:
    """Return the numbers of all versions that have a manifest, sorted. Raises VersionError."""
    names = folder.folders_with(MANIFEST)
    return sorted(int(name) for name in names if len(name) == 6 and name.isdecimal())


def read_manifest(folder: Folder, number: int) -> Manifest:
    """Return the manifest of a version.

    Raises VersionNotFound for a version without a manifest, and DamagedVersion for a manifest that is
    malformed or was written by a newer l2features.
    """
    content = folder.read(manifest_path(number))
    if content is None:
        raise not_found(folder, number)
    return parse_manifest(content, number)


def not_found(folder: Folder, number: int) -> VersionNotFound:
    """Return the error for a version that does not exist; the message lists the existing versions.

    Raises VersionError if the folder cannot be listed.
    """
    numbers = ", ".join(map(str, version_numbers(folder))) or "none"
    return VersionNotFound(f"version {number} is not in {folder.url}: existing versions: {numbers}")


def parse_manifest(content: bytes, number: int) -> Manifest:
    """Parse a version's manifest.

    Raises DamagedVersion for a manifest that is malformed, of another version, or of a newer l2features.
    """
    path = manifest_path(number)
    try:
        check_version(Format.model_validate_json(content).format, FORMAT, path)
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise DamagedVersion(path, f"is not a manifest: {reason}") from error
    except UnknownFormat as error:
        raise DamagedVersion(path, str(error).removeprefix(f"{path}: ")) from error
    if manifest.number != number:
        raise DamagedVersion(path, f"is the manifest of version {manifest.number}: expected version {number}")
    return manifest
