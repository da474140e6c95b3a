"""Routes that redirect to a viewer which draws roots, or return its URL as JSON."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from flask import Response, request
from flask_openapi3 import APIBlueprint
from pydantic import AfterValidator, BaseModel, Field

from l2features.core.chunks import centre_box
from l2features.core.geometry import Geometry
from l2features.core.ids import Ids, as_ids, sorted_unique
from l2features.neurons.neuron_reader import NeuronReader
from l2features.neurons.root_summaries import UNKNOWN, RootError, RootStatus, Summaries
from l2features.pictures.view_state import Points, View
from l2features.pictures.viewers import LOGIN, PUBLIC_VIEWER, browsable
from l2features.versions.lookup import VersionReader
from l2features.versions.version_roots import version_summaries

from .accept import accepted
from .auth import auth_disabled
from .config import Settings
from .error_responses import ApiError
from .hosts import here
from .largest_lists import LargestLists
from .neuron_schemas import EXAMPLE_ROOT, INVALID_PARAMETER, TOO_MANY_NODES, RootPath
from .picture_answers import NOT_KEPT
from .picture_schemas import HTML, LIST_PATTERN, ROOTS, check_roots, parse_roots
from .problems import errors
from .response_bodies import JSON, json_response
from .root_reads import RootAnswer, RootReads, refused
from .schemas import DatasetPath, MissingQuery, Query
from .served_datasets import ServedDataset
from .service import AppResources
from .version_schemas import VERSION_PATTERN
from .viewer_routes import PLACE, is_built

MOST_ROOTS = 100
"""Maximum number of roots in a link, whose URL contains each id twice."""


class ViewQuery(Query):
    """Parameters of a link."""

    roots: Annotated[str, AfterValidator(check_roots)] = Field(
        "",
        description=f"{ROOTS} At most {MOST_ROOTS}.",
        json_schema_extra={"pattern": f"^({LIST_PATTERN})?$", "example": EXAMPLE_ROOT},
    )
    version: Annotated[str, Field(pattern=VERSION_PATTERN)] | None = Field(
        None,
        description="List the largest roots of this version in the viewer. Without `roots`, the largest root "
        "is selected.",
    )


class ViewLink(BaseModel):
    """A link to a viewer."""

    url: str = Field(description="URL of the viewer with its state.")


def add_view_routes(api: APIBlueprint, service: AppResources, reads: RootReads, lists: LargestLists) -> None:
    """Add to ``api`` the routes that redirect to a viewer."""
    settings, datasets = service.settings, service.datasets

    @api.get("/table/<dataset>/root/<root_id>/view", summary="A root in the viewer", responses=_responses())
    def root_view(path: RootPath) -> Response:
        """Redirect browsers to Neuroglancer, which draws the root, its nodes and its skeleton."""
        return live(datasets[path.dataset], as_ids([path.root_id]))

    @api.get("/table/<dataset>/view", summary="Roots in the viewer", responses=_responses())
    def view(path: DatasetPath, query: ViewQuery) -> Response:
        """Redirect browsers to Neuroglancer, which draws the roots.

        With neither `roots` nor `version`, Neuroglancer shows the centre of the volume.
        """
        served, roots = datasets[path.dataset], sorted_unique(parse_roots(query.roots))
        if len(roots) > MOST_ROOTS:
            message = f"{len(roots)} roots in one link: expected at most {MOST_ROOTS}"
            raise ApiError(413, "too_many_ids", message, field="roots", limit=MOST_ROOTS)
        return live(served, roots) if query.version is None else frozen(served, roots, query.version)

    def live(served: ServedDataset, roots: Ids) -> Response:
        kind, geometry = _kind(), served.opened().reader.geometry

        def read(neurons: NeuronReader, _: Ids) -> RootAnswer:
            found = neurons.summaries(roots)
            box = _box(_checked(found), geometry)
            listed = ",".join(map(str, roots.tolist()))
            return RootAnswer(found.missing, lambda: _response(settings, served, roots, box, listed, kind))

        return reads.answer(served, MissingQuery(), read)

    def frozen(served: ServedDataset, roots: Ids, version: str) -> Response:
        kind, geometry = _kind(), served.opened().reader.geometry

        def read(reader: VersionReader, until: float) -> tuple[tuple[Ids, np.ndarray, int], int]:
            number = reader.manifest.number
            if not len(roots):
                largest, groups = lists.largest(reader, until)
                return (largest.roots[:1], largest.summaries[:1], number), groups
            found, groups = version_summaries(reader, roots, until)
            return (roots, _checked(found), number), groups

        try:
            with service.versions.of_version(served, version, read) as (selected, summaries, number):
                box = _box(summaries, geometry)
                return _response(settings, served, selected, box, f"version-{number}", kind)
        except RootError as error:
            raise refused(error, None) from error


def _kind() -> str:
    return accepted(request.headers.get("Accept"), (HTML, JSON))


def _checked(found: Summaries) -> np.ndarray:
    """Return the summaries of all roots, dtype `SUMMARIES`. Raises RootError if a root has no summary."""
    for place in np.flatnonzero(~found.summarized)[:1].tolist():
        root = int(found.roots[place])
        reason, size = found.reasons.get(root, UNKNOWN), found.sizes.get(root, 0)
        raise RootError(root, RootStatus(int(found.status[place])), reason, size)
    return found.summary


def _box(summaries: np.ndarray, geometry: Geometry) -> Points:
    """Return the bounds of all roots in nm, (2, 3): lower and upper corner.

    A root's bounds are those of its nodes' coordinates or, without coordinates, of its chunks. Without roots,
    returns the bounds of the volume's central chunks.
    """
    if not len(summaries):
        centre = centre_box(geometry.grid)
        return np.multiply(geometry.origins([centre.start, centre.stop]), geometry.resolution)
    bounds = summaries["rep_bounds_nm"]
    bounds = np.where(np.isnan(bounds), summaries["chunk_bounds_nm"], bounds)
    return np.stack([bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)])


def _response(
    settings: Settings, served: ServedDataset, roots: Ids, box: Points, listed: str, kind: str
) -> Response:
    """Return a redirect to the viewer if ``kind`` is HTML, else the viewer's URL as JSON.

    ``listed`` names the viewer's list of roots: "version-N" or comma-separated root ids; "" for no list.
    """
    login = "" if auth_disabled() else LOGIN
    folder = f"precomputed://{login}{here()}{settings.api_prefix}/table/{served.name}/precomputed"
    view = View(
        nodes=f"{folder}/nodes",
        skeletons=f"{folder}/skeletons",
        properties=f"{folder}/segment_properties/{listed}" if listed else None,
        segmentation=browsable(served.entry.cv_path, with_login=bool(login)),
        roots=roots,
        box=box,
    )
    url = view.link(settings.viewer or (f"{here()}{PLACE}" if is_built() else PUBLIC_VIEWER))
    link = ViewLink(url=url).model_dump()
    response = Response(status=302, headers={"Location": url}) if kind == HTML else json_response(link)
    response.vary.add("Accept")
    response.headers["Cache-Control"] = NOT_KEPT
    return response


def _responses() -> dict[int, dict[str, Any] | type[BaseModel]]:
    examples = {413: TOO_MANY_NODES, 422: INVALID_PARAMETER}
    return {
        200: ViewLink,
        302: {"description": "Redirect to the viewer, for clients that prefer `text/html`."},
        **errors(404, 406, 413, 422, 429, 503, examples=examples),
    }
