"""Example commands for a data set, ready to run. Only the token, if one is needed, must be filled in."""

from __future__ import annotations

import shlex
from typing import NamedTuple
from urllib.parse import quote


class Example(NamedTuple):
    """Ids of a node with features and of its root; ``root`` is None if unknown."""

    node: int
    root: int | None


def first_commands(
    url: str, api_prefix: str, dataset: str, example: Example, *, with_token: bool
) -> list[tuple[str, str]]:
    """Return pairs (tool, example command), for caveclient, our client and curl.

    Args:
        url: URL of the server.
        api_prefix: path of the API's routes.
        with_token: whether the server needs a token; if so, the commands contain the placeholder ``TOKEN``.
    """
    node, root = example
    token = "TOKEN" if with_token else "none"
    cave = [
        "from caveclient.auth import AuthClient",
        "from caveclient.l2cache import L2CacheClient",
        f"client = L2CacheClient({url!r}, {dataset!r}, AuthClient(token={token!r}))",
        f"print(client.get_l2data([{node}]))",
    ]
    given = f"{url!r}, {dataset!r}" + (f", token={token!r}" if with_token else "")
    ours = ["from l2features import Client", f"client = Client({given})", f"print(client.features([{node}]))"]
    header = f" -H 'Authorization: Bearer {token}'" if with_token else ""
    table = f"{url}{api_prefix}/table/{quote(dataset)}"
    body = shlex.quote(f'{{"l2_ids": [{node}]}}')
    curl = [
        f"curl -s{header} -H 'Content-Type: application/json' -d {body} \\\n"
        f"  {shlex.quote(f'{table}/attributes')}"
    ]
    if root is not None:
        ours.append(f"print(client.neuron({root}).summary)")
        curl.append(f"curl -s{header} {shlex.quote(f'{table}/root/{root}')}")
    return [("caveclient", "\n".join(cave)), ("Client", "\n".join(ours)), ("curl", "\n".join(curl))]
