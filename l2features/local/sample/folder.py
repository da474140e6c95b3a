"""Checks of a sample's folder before it is used or written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import ConfigError

if TYPE_CHECKING:
    from .segmentation_files import Sample

STORE = "l2cache.db"
CONFIG, SEGMENTATION = "datasets.yml", "segmentation"
LOCK = "up.lock"
"""Name of the file that marks a folder of `l2features up`."""


def segmentation_path(directory: Path) -> str:
    return f"precomputed://file://{directory}/{SEGMENTATION}"


def is_sample(directory: Path, sample: Sample) -> bool:
    """Return whether a directory holds this sample, and was neither copied nor moved.

    Raises ConfigError if the data sets file cannot be read.
    """
    with checked(directory):
        text = _config_text(directory)
    return _is_titled(text, sample) and json.dumps(segmentation_path(directory.resolve())) in text


def check_config(directory: Path, sample: Sample) -> None:
    """Raise ConfigError if a directory's data sets file belongs to another sample, or was copied or moved."""
    config = directory / CONFIG
    if not config.exists() or is_sample(directory, sample):
        return
    if _is_titled(_config_text(directory), sample):
        raise ConfigError(
            f"{config} is of a sample that was moved or copied here from another path: remove "
            "datasets.yml and segmentation/ to write the sample again, or choose another directory"
        )
    raise ConfigError(f"{config} exists and is not this sample's: choose another directory")


def check_folder(directory: Path, sample: Sample, info: dict[str, Any]) -> None:
    """Raise ConfigError as `check_config` does, or if a directory has files that are not this sample's.

    A directory made by `l2features up` may have any other files. A segmentation counts as this sample's if
    its info equals ``info``; its data may be incomplete.
    """
    check_config(directory, sample)
    there = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if LOCK in there:
        return
    others = {name for name in there - {CONFIG, SEGMENTATION} if not name.startswith(STORE)}
    segmentation = directory / SEGMENTATION
    if segmentation.exists() and not _is_info(segmentation / "info", info):
        others.add(segmentation.name)
    if others:
        raise ConfigError(others_in(directory, others, "this sample's folder"))


def others_in(folder: Path, names: Iterable[str], expected: str) -> str:
    """Return the error message for a folder with unexpected files, ``names``.

    The message asks for a new or empty folder, or one of the kind that ``expected`` describes.
    """
    found = ", ".join(sorted(names)[:3])
    return f"{folder} has other files ({found}): expected a new or empty folder, or {expected}"


@contextmanager
def checked(directory: Path) -> Iterator[None]:
    """Turn file system errors into ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from error


def _config_text(directory: Path) -> str:
    config = directory / CONFIG
    return config.read_text("utf-8", "replace") if config.exists() else ""


def _is_titled(text: str, sample: Sample) -> bool:
    return text.startswith(f"# {sample.title}\n")


def _is_info(path: Path, info: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text()) == json.loads(json.dumps(info)))
    except (OSError, ValueError):
        return False
