"""Neuroglancer at ``/viewer/``: the files that ``npm run build`` in ``viewer/`` has written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flask import Response, send_from_directory
from flask_openapi3 import OpenAPI

from l2features.pictures.viewers import PUBLIC_VIEWER, origins_of

from .config import Settings
from .picture_answers import NOT_KEPT
from .picture_schemas import HTML
from .served_datasets import ServedDatasets

PLACE, PAGE, ASSETS = "/viewer/", "index.html", "assets"
BUILT = Path(__file__).parent / "viewer"
FOREVER = "public, max-age=31536000, immutable"
"""Value of Cache-Control for files whose names have a hash of their content."""
MIMETYPES = {
    ".css": "text/css",
    ".html": HTML,
    ".js": "text/javascript",
    ".wasm": "application/wasm",
}
NOT_BUILT = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>The viewer is not built</title>
<h1>The viewer is not built</h1>
<p>The wheel of <code>l2features</code> contains the viewer. In a checkout, build it with Node.js 18 or newer:
<pre>npm ci --prefix viewer --ignore-scripts
npm run build --prefix viewer</pre>
<p>Until then, links lead to <a href="{PUBLIC_VIEWER}">{PUBLIC_VIEWER}</a>.
"""


def is_built() -> bool:
    """Return whether the files of the viewer have been built."""
    return (BUILT / PAGE).is_file()


def register_viewer(app: OpenAPI, settings: Settings, datasets: ServedDatasets) -> frozenset[str]:
    """Register the viewer's routes; return their endpoints, which need no token: they serve no data."""
    found = (origin for served in datasets.all() for origin in origins_of(served.entry.cv_path))
    policy = content_policy([*found, *settings.viewer_origins.split()])

    def viewer() -> Response:
        if not is_built():
            return Response(NOT_BUILT, 404, mimetype=HTML)
        return _file(BUILT, PAGE, NOT_KEPT, policy)

    def viewer_asset(name: str) -> Response:
        return _file(BUILT / ASSETS, name, FOREVER, policy)

    app.add_url_rule(PLACE, "viewer", viewer)
    app.add_url_rule(f"{PLACE}{ASSETS}/<name>", "viewer_asset", viewer_asset)
    return frozenset({"viewer", "viewer_asset"})


def content_policy(origins: Iterable[str]) -> str:
    """Return the Content-Security-Policy of the viewer, which may read data from ``origins`` and this server.

    The policy also allows what the viewer needs: workers, inline styles, WebAssembly, generated JavaScript.
    """
    sources = {
        "default-src": "'none'",
        "script-src": "'self' 'unsafe-eval'",
        "worker-src": "'self' blob:",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "connect-src": " ".join(["'self'", "data:", "blob:", *dict.fromkeys(origins)]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'self'",
    }
    return "; ".join(f"{name} {value}" for name, value in sources.items())


def _file(folder: Path, name: str, cache: str, policy: str) -> Response:
    """Return a file of ``folder``, or 304 if the client has it. Raises NotFound if it is not there."""
    mimetype = MIMETYPES.get(Path(name).suffix)
    response = send_from_directory(folder, name, mimetype=mimetype, etag=True)
    response.headers["Cache-Control"] = cache
    response.headers["Content-Security-Policy"] = policy
    return response
