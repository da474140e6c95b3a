"""Read recorded messages: a payload file with a JSON file of its attributes, or a dead letter in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..messages.parts import Delivery
from .letter import DeadLetterError
from .letter_folder import SUFFIX, read_letter

PAYLOAD_SUFFIX = ".bin"


def find_messages(path: Path) -> list[Path]:
    """Return one file for each recorded message in a folder, sorted; ``path`` may also be a single message.

    ``NAME.bin`` is a payload, and ``NAME.json`` has its attributes. A ``NAME.json`` without a ``NAME.bin`` is
    a dead letter. Raises ConfigError if no such file exists.
    """
    if path.is_dir():
        names = {p for p in path.iterdir() if p.suffix in {PAYLOAD_SUFFIX, SUFFIX} and p.is_file()}
        files = sorted(p for p in names if p.suffix == PAYLOAD_SUFFIX or p.with_suffix(".bin") not in names)
    else:
        payload = path.with_suffix(PAYLOAD_SUFFIX)
        files = [payload if path.suffix == SUFFIX and payload.is_file() else path]
    if not files or not files[0].is_file():
        raise ConfigError(f"messages {path}: expected a file NAME.bin or NAME.json, or a folder of these")
    return files


def read_message(file: Path) -> Delivery:
    """Return a recorded message; its key is the file's path. Raises ConfigError for an invalid file."""
    try:
        if file.suffix != PAYLOAD_SUFFIX:
            return read_letter(file).delivery(str(file))
        return Delivery(str(file), file.read_bytes(), _attributes(file.with_suffix(SUFFIX)))
    except OSError as error:
        raise ConfigError(f"message {file}: {error.filename}: {error.strerror}") from error
    except DeadLetterError as error:
        raise ConfigError(f"message {error}") from error


def _attributes(file: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(file.read_bytes())
        return {str(key): str(value) for key, value in content["attributes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = 'expected {"attributes": {…}}'
        raise ConfigError(f"message {file}: {expected}: {type(error).__name__}: {error}") from error
