"""Parse the data sets file's YAML entry by entry, so that a broken entry does not affect the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..core.errors import ConfigError, message_of

BUCKETS = "gs://"
CONNECT_S, BUCKET_TIMEOUT_S = 5.0, 30.0
NOT_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors that PyYAML raises for invalid text, and for values that contradict their YAML tag."""
_MERGE = "tag:yaml.org,2002:merge"


Entries = tuple[dict[str, Any], dict[str, str]]
"""Parsed entries by name, and the problems of unreadable entries by name."""


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} occurs twice: expected once", node.start_mark
                )
        return super().construct_mapping(node, deep)


def read_entries(file: str) -> Entries:
    """Return the entries of a data sets file on this machine or at ``gs://…``.

    Raises ConfigError if the file cannot be read, or is not a YAML mapping of data sets.
    """
    try:
        text = _read_from_bucket(file) if file.startswith(BUCKETS) else Path(file).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"data sets file {file}: not YAML: {_reason(error)}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data sets file {file}: {getattr(error, 'strerror', None) or _reason(error)}"
        ) from error
    try:
        return _parse(text, file)
    except NOT_YAML as error:
        raise ConfigError(f"data sets file {file}: not YAML: {_reason(error)}") from error


def as_json(value: Any) -> Any:
    """Convert a YAML value to JSON types; values of other types become text."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return str(value)
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _parse(text: str, file: str) -> Entries:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode) or not root.value:
            raise ConfigError(
                f"data sets file {file} has no data sets: expected <name>: {{cv_path: …, l2cache_id: …}}"
            )
        values: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for key, node in root.value:
            name = str(loader.construct_object(key, deep=True))
            if name in values:
                problems[name] = f"key {name!r} occurs twice: expected once"
            try:
                values[name] = loader.construct_object(node, deep=True)
            except NOT_YAML as error:
                values[name] = None
                problems[name] = f"not YAML: {_reason(error)}"
        return values, problems
    finally:
        loader.dispose()


def _read_from_bucket(url: str) -> str:
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.exceptions import GoogleCloudError
    from google.cloud.storage import Blob, Client

    try:
        blob = Blob.from_uri(url, Client(project=None))
        content: bytes = blob.download_as_bytes(timeout=(CONNECT_S, BUCKET_TIMEOUT_S), retry=None)
    except (GoogleAuthError, GoogleCloudError, OSError, ValueError) as error:
        raise ConfigError(f"data sets file {url}: {_reason(error)}") from error
    return content.decode()


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return message_of(error) or type(error).__name__
