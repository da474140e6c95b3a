"""CAVE's info service, as a WSGI application to mount at ``/info``.

A data stack's ``local_server`` is the scheme and host of the client's request. Clients derive the URLs of
other services from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request

from .graph_app import Open, answered, json_response

SERVER_PATH = "/segmentation"
"""URL path of the graph server."""
_MAP = Map(
    [
        Rule("/api/v2/datastacks", endpoint="datastacks", methods=["GET"]),
        Rule("/api/v2/datastack/full/<name>", endpoint="datastack", methods=["GET"]),
    ]
)


class InfoApp:
    """Serves the graphs ``names``, each as a data stack of the same name."""

    def __init__(self, names: Collection[str], open_graph: Open) -> None:
        self.names, self.open_graph = names, open_graph

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        return answered(request, lambda: json_response(self._value(request)))(environ, start_response)

    def _value(self, request: Request) -> Any:
        endpoint, values = _MAP.bind_to_environ(request.environ).match()
        if endpoint == "datastacks":
            return list(self.names)
        return self.datastack(values["name"], request.host_url.rstrip("/"))

    def datastack(self, name: str, origin: str) -> dict[str, Any]:
        """Return the description of a data stack, with URLs at ``origin``."""
        x, y, z = self.open_graph(name).info["scales"][0]["resolution"]
        return {
            "aligned_volume": {"id": 1, "name": name, "image_source": None, "description": "none"},
            "segmentation_source": f"graphene://{origin}{SERVER_PATH}/table/{name}",
            "local_server": origin,
            "viewer_resolution_x": x,
            "viewer_resolution_y": y,
            "viewer_resolution_z": z,
            "viewer_site": None,
            "synapse_table": None,
            "soma_table": None,
            "description": "a data set of l2features",
        }
