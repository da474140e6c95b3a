"""The HTML pages: landing page, page that shows the OpenAPI document, and a dashboard for each data set."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import wait
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import quote

from flask import Response, redirect, render_template, request, send_from_directory
from flask_openapi3 import OpenAPI
from werkzeug.exceptions import NotFound

from l2features.core.times import iso_text

from .accept import accepted
from .auth import Viewable, auth_disabled, login_url, viewable
from .board import FIRST_S, Board, Kept
from .board_schemas import BoardInfo, CellInfo, CellPath, CellQuery
from .config import Settings
from .error_responses import ApiError
from .first_commands import Example, first_commands
from .hosts import here
from .limiter import read_limiter
from .picture_answers import NOT_KEPT
from .picture_schemas import HTML
from .problems import errors
from .request_rates import RequestRates
from .response_bodies import JSON, accepts_gzip, json_response
from .schemas import READS, DatasetPath, new_routes
from .served_datasets import ServedDataset, ServedDatasets
from .viewer_routes import PLACE, is_built

PAGES = Path(__file__).parent / "pages"
TABLE = "/table/<dataset>"
STATE = f"{TABLE}/dashboard"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of a page: only files of this server, no inline script or style."""
CELL_READS = 8
"""Maximum cells of chunk maps that a process looks up at the same time."""
WAITING = 4
"""Maximum requests per process that wait for example nodes, so that a slow store cannot take all threads."""
SECTIONS = {
    "progress": "Coverage",
    "updates": "Updates",
    "dead": "Dead letters",
    "audit": "Audit",
    "versions": "Versions",
    "requests": "Requests",
    "sample": "Nodes",
}


class Dashboards:
    """The HTML pages of one application."""

    def __init__(self, app: OpenAPI, settings: Settings, datasets: ServedDatasets) -> None:
        self.app, self.settings, self.datasets = app, settings, datasets
        rates = RequestRates(
            frozenset({f"{settings.api_prefix}{STATE}", f"{settings.url_prefix}/table/<dataset>"})
        )
        self._waits = BoundedSemaphore(WAITING)
        self.limiter = read_limiter(CELL_READS, settings, len(datasets.all()))
        self._boards = {served.name: Board(served, rates) for served in datasets.all()}

    def board(self, name: str) -> Board:
        """Return the reader of a data set's state.

        Raises ApiError 404 for an unknown name, 503 for an invalid entry in the data sets file.
        """
        return self._boards[self.datasets[name].name]

    def landing(self) -> Response:
        """Return the landing page with the data sets that the visitor may view."""
        names = [*self._boards, *self.datasets.problems]
        try:
            visitor, down = viewable(self.app, names), False
        except ApiError:
            visitor, down = Viewable(False, frozenset()), True
        self._look_for_examples(visitor.names)
        response = page(
            "landing.html",
            entries=[self._entry(name) for name in names if name in visitor.names],
            known=visitor.known,
            down=down,
            hidden=len(visitor.names) < len(names),
            login=login_url(),
            **self._links(),
        )
        response.vary.add("Accept")
        return response

    def example(self) -> tuple[str, Example] | None:
        """Return a tuple: the name of a data set that the visitor may view; an example node of this data set.

        Returns None if no example is found within `FIRST_S`. Raises ApiError 503 if the authentication
        service does not answer.
        """
        visitor = viewable(self.app, list(self._boards))
        self._look_for_examples(visitor.names)
        examples = ((name, self._boards[name].example()) for name in self._boards if name in visitor.names)
        return next(((name, example) for name, example in examples if example), None)

    def _look_for_examples(self, names: Collection[str]) -> None:
        """Start searches for example nodes of these data sets, and wait for them up to `FIRST_S`.

        Does not wait if `WAITING` other requests are waiting.
        """
        pending = [self._boards[name].begin() for name in names if name in self._boards]
        if self._waits.acquire(blocking=False):
            try:
                wait([search for search in pending if search], FIRST_S)
            finally:
                self._waits.release()

    def docs(self) -> Response:
        """Return the page that shows the OpenAPI document."""
        names = viewable(self.app, list(self._boards)).names
        tables = {name: self._place(name) for name in self._boards if name in names}
        return page("api.html", tables=tables, **self._links())

    def dashboard(self, dataset: str) -> Response:
        """Return the dashboard page of a data set.

        Raises ApiError 404 for an unknown name, and 503 for an invalid entry in the data sets file or before
        the data set's state has been read once.
        """
        board = self.board(dataset)
        kept = board.kept()
        return page(
            "dashboard.html",
            dataset=dataset,
            what=described(board.served),
            info=kept.info,
            sections=SECTIONS,
            state=f"{self.settings.api_prefix}/table/{quote(dataset)}/dashboard",
            viewer=self.viewer(dataset, kept.info.sample.root if kept.info.sample else None),
            **self._links(),
        )

    def viewer(self, name: str, root: str | None) -> str | None:
        """Return the path of the route that opens ``root`` of data set ``name`` in the viewer.

        If ``root`` is None, returns the path of this server's viewer, or None if the viewer is not built.
        """
        if root:
            return f"{self.settings.api_prefix}/table/{quote(name)}/root/{root}/view"
        return PLACE if is_built() else None

    def _place(self, name: str) -> str:
        return f"{self.settings.url_prefix}/table/{quote(name)}"

    def _links(self) -> dict[str, str | None]:
        return {
            "home": f"{self.settings.url_prefix}/",
            "api": f"{self.settings.api_prefix}/docs/",
            "api_prefix": self.settings.api_prefix,
            "static": f"{self.settings.url_prefix}/static",
            "docs": self.settings.docs_url,
        }

    def _entry(self, name: str) -> dict[str, Any]:
        if name in self.datasets.problems:
            return {"name": name, "what": "its entry in the data sets file is invalid", "broken": True}
        board = self._boards[name]
        example = board.example()
        root = str(example.root) if example and example.root is not None else None
        prefix, with_token = self.settings.api_prefix, not auth_disabled()
        return {
            "name": name,
            "what": described(board.served),
            "commands": example and first_commands(here(), prefix, name, example, with_token=with_token),
            "dashboard": self._place(name),
            "viewer": self.viewer(name, root),
        }


def register_dashboards(app: OpenAPI, settings: Settings, dashboards: Dashboards) -> frozenset[str]:
    """Register the pages, and the routes that dashboards read; return the endpoints that need no token."""
    prefix = settings.url_prefix
    api = new_routes("dashboards", settings, READS)

    @api.get(STATE, summary="State of a data set", responses={200: BoardInfo, **errors(404, 406, 503)})
    def dashboard(path: DatasetPath) -> Response:
        """Return what the dashboard shows: progress, updates, audit, versions, requests, sampled nodes."""
        board = dashboards.board(path.dataset)
        accepted(request.headers.get("Accept"), (JSON,))
        return state_response(board.kept())

    @api.get(
        f"{STATE}/cell",
        summary="A cell of the chunk map",
        responses={200: CellInfo, **errors(404, 406, 422, 429, 503)},
    )
    def dashboard_cell(path: CellPath, query: CellQuery) -> Response:
        """Return how many chunks of the cell have each state, and up to 20 failed chunks with the reasons."""
        board = dashboards.board(path.dataset)
        accepted(request.headers.get("Accept"), (JSON,))
        with dashboards.limiter.request(board.served.name):
            return json_response(board.cell(query.plane, query.column, query.row).model_dump())

    app.register_api(api)

    def static(path: str) -> Response:
        return send_from_directory(PAGES / "static", path, max_age=3600)

    def login() -> Response:
        return redirect(f"{prefix}/")  # type: ignore[return-value]

    def home() -> Response:
        if not wants_page():
            raise NotFound  # as PCGL2Cache
        return login()

    app.add_url_rule(f"{prefix}{TABLE}", "dashboard_page", dashboards.dashboard)
    app.add_url_rule(f"{prefix}/static/<path:path>", "page_files", static)
    app.add_url_rule(f"{prefix}/login", "login", login)
    if prefix:
        app.add_url_rule("/", "home", home)
    return frozenset({"page_files", "home"})


def state_response(kept: Kept) -> Response:
    """Return the state of a data set as JSON, or 304 if the client has this state already."""
    zipped = accepts_gzip(request.headers.get("Accept-Encoding"))
    response = Response(kept.zipped if zipped else kept.body, mimetype=JSON)
    if zipped:
        response.headers["Content-Encoding"] = "gzip"
    response.vary.add("Accept-Encoding")
    response.headers["Cache-Control"] = NOT_KEPT
    response.set_etag(kept.etag, weak=True)
    response.make_conditional(request)
    return response


def page(template: str, **values: object) -> Response:
    """Return the page of a template; its headers let browsers load only files of this server."""
    response = Response(render_template(template, **values), mimetype=HTML)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def wants_page() -> bool:
    """Return whether the request's Accept header names text/html, as in browsers; ``*/*`` does not count."""
    named = {part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")}
    return HTML in named


def described(served: ServedDataset) -> str:
    """Return one line about a data set. Never waits: leaves out the metadata until they have been read."""
    entry, opening = served.entry, served.opening()
    parts = [
        "L2 nodes of a graph under proofreading" if entry.has_graph else "One node per segment and chunk"
    ]
    if opening.done() and opening.exception() is None:
        opened = opening.result()
        geometry, meta = opened.reader.geometry, opened.meta
        x, y, z = (f"{nm:g}" for nm in geometry.resolution)
        parts.append(f"{geometry.n_chunks:,} chunks at {x} x {y} x {z} nm")
        if meta:
            parts.append(f"as of {iso_text(meta.time)}")
    return ", ".join(parts)
