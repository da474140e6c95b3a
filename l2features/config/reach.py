"""Check that Google services, or their emulators, can be reached.

Google's clients retry a call for a minute, which is right during a job. Before a job begins, these checks
report a wrong address or an unreachable host within seconds.
"""

from __future__ import annotations

from ..core.errors import L2FeaturesError, StoreUnavailable
from ..core.extras import naming_extras
from .datasets import BIGTABLE_VARIABLE, PUBSUB_VARIABLE, emulator_address

REACH_S = 3.0
BIGTABLE_HOST, PUBSUB_HOST = "bigtable.googleapis.com:443", "pubsub.googleapis.com:443"


def check_bigtable(url: str, kind: type[L2FeaturesError] = StoreUnavailable) -> None:
    """Raise ``kind`` if ``url`` is a Bigtable URL and Bigtable is unreachable. Ignore other URLs."""
    if url.startswith("bigtable://"):
        _check(url, BIGTABLE_VARIABLE, BIGTABLE_HOST, kind, "bigtable")


def check_pubsub(path: str, kind: type[L2FeaturesError]) -> None:
    """Raise ``kind`` if Pub/Sub is unreachable. The message begins with ``path``, such as a topic's path."""
    _check(path, PUBSUB_VARIABLE, PUBSUB_HOST, kind, "jobs")


def _check(what: str, variable: str, host: str, kind: type[L2FeaturesError], extra: str) -> None:
    with naming_extras(extra):
        import grpc

    if emulator := emulator_address(variable):
        channel = grpc.insecure_channel(emulator)
    else:
        channel = grpc.secure_channel(host, grpc.ssl_channel_credentials())
    try:
        grpc.channel_ready_future(channel).result(timeout=REACH_S)
    except grpc.FutureTimeoutError as error:
        where = f"{emulator} (${variable})" if emulator else host
        raise kind(f"{what}: cannot reach {where}: no connection within {REACH_S:g} s") from error
    finally:
        channel.close()
