"""Tests of `l2features up`, which runs all services."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from typing import Any

from caveclient import CAVEclient
from click.testing import CliRunner

from l2features.cli.commands import main
from l2features.core.schema import NAMES
from tests.support.cave_checks import check_datastack, check_history, largest_root, skeleton_of, soon
from tests.support.local_stack import NO_SUCH_PROXY, Up, up

TOKEN = "0123456789abcdef" * 2
__all__ = ["up"]


# ------------------------------------------------------------------ l2features up
def test_from_one_command_to_the_features_of_an_edit(up: Up) -> None:
    up.read_until("/metrics")
    lines = re.findall(r"^  export (\S.*)$", up.said, re.MULTILINE)
    exports = dict(shlex.split(line)[0].split("=", 1) for line in lines)
    assert exports["GRAPH_L2CACHE_CONFIG_PATH"] == f"{up.folder}/datasets.yml"
    command = [sys.executable, "-m", "l2features.cli", "sample-edit", "sample", "--split", "--json"]
    env = {**os.environ, **NO_SUCH_PROXY, **exports}
    match = re.search(r"^  (http\S+)/ready$", up.said, re.MULTILINE)
    assert match
    client = CAVEclient("sample", server_address=match[1], auth_token=TOKEN, write_server_cache=False)
    check_datastack(client, match[1])
    before = largest_root(client)
    skeleton_of(client, before)

    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    edit = json.loads(done.stdout)
    ids = edit["new_l2_ids"]
    assert len(ids) == 2
    data = soon(client, ids)
    for node in ids:
        assert data[str(node)]["size_nm3"] > 0
        assert set(data[str(node)]) == set(NAMES)
    for root in edit["new_root_ids"]:
        skeleton_of(client, root)
    check_history(client, edit)
    assert snippet(up.said, ids[0])[str(ids[0])] == data[str(ids[0])]

    again = CliRunner().invoke(main, ["up", str(up.folder)])
    assert (again.exit_code, f"error: {up.folder} is in use by another" in again.output) == (2, True)

    assert len(up.family) >= 6
    up.process.send_signal(signal.SIGINT)
    assert up.finish() == (0, "")
    assert up.leftovers() == []
    assert up.temporary() == up.written_elsewhere() == []
    assert "Traceback" not in "".join(log.read_text() for log in (up.folder / "logs").iterdir())


def snippet(said: str, node: int) -> Any:
    """Run the printed Python example with an L2 id; return its result."""
    found = re.search(r"^  from caveclient.*?(?=\n\n)", said, re.MULTILINE | re.DOTALL)
    assert found
    *first, last = textwrap.dedent(found[0]).replace("(ID)", f"({node})").splitlines()
    scope: dict[str, Any] = {}
    exec("\n".join(first), scope)
    return eval(last, scope)


def test_an_emulator_that_dies_ends_all(up: Up) -> None:
    up.read_until("--topics local")
    (emulator,) = [p for p in up.family if "cbtemulator" in p.name()]
    emulator.kill()
    status, error = up.finish()
    assert status == 1
    assert error.startswith(f"error: bigtable was ended by SIGKILL: see {up.folder}/logs/bigtable.log\n")
    assert error.endswith("all other services were stopped\n")
    assert up.leftovers() == []


def test_sigterm_while_it_starts(up: Up) -> None:
    up.read_until("--topics local")
    up.process.terminate()
    assert up.finish() == (0, "")
    assert up.leftovers() == []
    assert up.written_elsewhere() == []


def test_killed_it_leaves_nothing_that_runs_and_starts_again(up: Up) -> None:
    """The next start removes the temporary files of the killed process, but no file of the user."""
    up.read_until("--topics local")
    up.process.kill()
    assert up.finish()[0] == -signal.SIGKILL
    assert up.leftovers() == []
    (killed,) = up.temporary()
    (up.folder / "tmp").mkdir()
    (up.folder / "tmp" / "results.csv").write_text("precious")
    up.start()
    up.read_until("--topics local")
    (temporary,) = up.temporary()
    assert temporary != killed
    up.process.terminate()
    assert up.finish() == (0, "")
    assert up.temporary() == []
    assert (up.folder / "tmp" / "results.csv").read_text() == "precious"
