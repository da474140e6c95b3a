"""Where Neuroglancer reads a segmentation: the URL of its source, and the web origins of its data."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..core.paths import parse_path

PUBLIC_VIEWER = "https://neuroglancer-demo.appspot.com/"
PROTOCOLS = ("gs", "s3", "http", "https", "middleauth+https")
"""Protocols of paths that a browser can read."""
LOGIN = "middleauth+"
BUCKETS = {"gs": "https://storage.googleapis.com", "s3": "https://*.s3.amazonaws.com"}
"""Origins from which the viewer reads buckets."""


def browsable(cv_path: str, with_login: bool = False) -> str | None:
    """Return a segmentation's source as Neuroglancer names it; None if a browser cannot read it.

    With ``with_login``, the source tells the viewer to log in to the graph's server.

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
    """Return the web origins that a browser reads a segmentation from; none if a browser cannot read it.

    A graph's server keeps most supervoxels and meshes in buckets, so its origins include those of buckets.

    >>> origins_of("https://server.org/seg")
    ('https://server.org',)
    """
    source = browsable(cv_path)
    if source is None:
        return ()
    parts = urlsplit(source.partition("://")[2].removeprefix(LOGIN))
    origin = BUCKETS.get(parts.scheme, f"{parts.scheme}://{parts.netloc}")
    return (origin, *BUCKETS.values()) if source.startswith("graphene://") else (origin,)
