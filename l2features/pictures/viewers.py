"""Neuroglancer's sources: where a browser reads a segmentation, and which origins that needs."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..core.paths import parse_path

PUBLIC_VIEWER = "https://neuroglancer-demo.appspot.com/"
PROTOCOLS = ("gs", "s3", "http", "https", "middleauth+https")
"""Protocols that browsers read; the others are for programs."""
LOGIN = "middleauth+"
BUCKETS = {"gs": "https://storage.googleapis.com", "s3": "https://*.s3.amazonaws.com"}
"""Origins from which the viewer reads buckets."""


def browsable(cv_path: str, with_login: bool = False) -> str | None:
    """Return a segmentation as the viewer names it; None where a browser cannot read it.

    ``with_login``: a server of the graph needs a token.

    >>> browsable("gs://bucket/seg"), browsable("/data/seg")
    ('precomputed://gs://bucket/seg', None)
    """
    try:
        location = parse_path(cv_path)
    except ValueError:
        return None
    if urlsplit(location.url).scheme not in PROTOCOLS:
        return None
    if location.format == "graphene" and with_login and not location.url.startswith(LOGIN):
        location = location._replace(url=LOGIN + location.url)
    return location.cloudpath


def origins_of(cv_path: str) -> tuple[str, ...]:
    """Return the origins that a browser reads a segmentation from; none where it cannot read it.

    A graph's server names a folder of supervoxels and meshes, most often in a bucket.

    >>> origins_of("https://server.org/seg")
    ('https://server.org',)
    """
    source = browsable(cv_path)
    if source is None:
        return ()
    parts = urlsplit(source.partition("://")[2].removeprefix(LOGIN))
    origin = BUCKETS.get(parts.scheme, f"{parts.scheme}://{parts.netloc}")
    return (origin, *BUCKETS.values()) if source.startswith("graphene://") else (origin,)
