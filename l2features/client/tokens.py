"""The token for a server, from the files in which caveclient stores tokens."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from urllib.parse import urlsplit

from ..core.errors import ConfigError

FOLDER, KEY = ".cloudvolume/secrets", "token"
SHARED = ("cave-secret.json", "chunkedgraph-secret.json")
"""Names of the file with a token for all servers; the second is an older name."""


def token_files(url: str) -> list[Path]:
    """Return the files that may have a server's token, in the order in which caveclient tries them."""
    folder = Path.home() / FOLDER
    return [folder / name for name in (f"{urlsplit(url).netloc}-{SHARED[0]}", *SHARED)]


def find_token(url: str) -> str | None:
    """Return the token for a server from the first file that has one; None if no file has one.

    A server without TLS that is not on this machine gets no token. Raises ConfigError for a malformed file.
    """
    if not is_private(url):
        return None
    for path in token_files(url):
        try:
            token = json.loads(path.read_text("utf-8")).get(KEY)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else f'expected {{"{KEY}": "…"}}'
            raise ConfigError(f"token file {path}: {why}") from None
        if token:
            return check_token(token, f"token file {path}")
    return None


def check_token(token: object, where: str) -> str:
    """Return a token unchanged. Raises ConfigError if it is invalid in an HTTP header.

    The message does not contain the token.
    """
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: expected a token of letters, digits and punctuation")
    return token


def is_private(url: str) -> bool:
    """Return whether requests to a server are private: over TLS, or to this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return parts.scheme == "https" or loopback
