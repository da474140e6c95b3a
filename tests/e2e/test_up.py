"""All on one machine by one command."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from caveclient import CAVEclient
from click.testing import CliRunner

from l2features.cli.commands import main
from l2features.core.schema import NAMES
from l2features.local import emulator_programs as emulators
from l2features.local.emulator_programs import BIGTABLE, PUBSUB
from l2features.local.sample.segmentation_files import Sample, make_sample
from l2features.local.services import GRAPH
from l2features.local.supervise import Ended, Supervisor
from tests.support.jobs import need_program

TOKEN = "0123456789abcdef" * 2
GUARD_S = 120.0
NO_SUCH_PROXY = {"http_proxy": "http://127.0.0.1:9"}
"""What is on this machine is not reached through it."""


class Up:
    """``l2features up`` as a process; nothing but its folder is there for it to write to."""

    def __init__(self, path: Path) -> None:
        self.folder, self.elsewhere = path / "a stack", path / "elsewhere"
        variables = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "CLOUDSDK_CONFIG": "gcloud"}
        for name in (*variables.values(), "cwd"):
            (self.elsewhere / name).mkdir(parents=True)
        self.own = {name: str(self.elsewhere / folder) for name, folder in variables.items()}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "l2features.cli", "up", str(self.folder)],
            cwd=self.elsewhere / "cwd",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **NO_SUCH_PROXY, **self.own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said = ""
        self.family: list[psutil.Process] = []

    def read_until(self, end: str) -> None:
        """Read what it prints until a line ends so."""
        guard = threading.Timer(GUARD_S, self.process.kill)
        guard.start()
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if line.rstrip("\n").endswith(end):
                break
        else:
            _, error = self.process.communicate()
            pytest.fail(f"it ended: {self.said}{error}")
        guard.cancel()
        own = psutil.Process(self.process.pid)
        self.family = [own, *own.children(recursive=True)]

    def leftovers(self) -> list[str]:
        """What still runs of it after a moment: what was its family, or names its folder."""
        until = time.monotonic() + 10
        while True:
            named = [p for p in psutil.process_iter() if str(self.folder) in command_line(p)]
            left = [str(p) for p in (*self.family, *named) if is_alive(p)]
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.1)

    def temporary(self) -> list[Path]:
        return list(self.folder.glob("up-tmp-*"))

    def written_elsewhere(self) -> list[Path]:
        return [path for path in self.elsewhere.rglob("*") if path.is_file()]

    def finish(self) -> tuple[int, str]:
        """Its exit status, and its error messages."""
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error

    def kill(self) -> None:
        """Leave nothing behind, whatever a test did."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            self.family += [own, *own.children(recursive=True)]
        for process in self.family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.communicate()


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    for program in (BIGTABLE, PUBSUB):
        need_program(program.find(), program.how_to_get_it)
    stack = Up(tmp_path)
    yield stack
    stack.kill()


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


def check_datastack(client: CAVEclient, url: str) -> None:
    info = client.info.get_datastack_info()
    assert client.info.get_datastacks() == ["sample"]
    assert info["local_server"] == url
    assert info["segmentation_source"] == f"graphene://{url}/segmentation/table/sample"
    assert client.chunkedgraph.segmentation_info["graph"]["n_layers"] == 4
    assert str(client.chunkedgraph.server_version) == "2.21.1"
    assert client.l2cache.has_cache()


def largest_root(client: CAVEclient) -> int:
    """Of those of the supervoxels of the first chunk."""
    roots = set(client.chunkedgraph.get_roots([(1 << 56) + number for number in range(1, 30)]).tolist()) - {0}
    leaves = client.chunkedgraph.get_leaves_many(sorted(roots), stop_layer=2)
    return int(max(leaves, key=lambda root: len(leaves[root])))


def skeleton_of(client: CAVEclient, root: int) -> None:
    """The genuine pcg_skel makes one of a root whose nodes all have features."""
    from pcg_skel import pcg_skel

    nodes = client.chunkedgraph.get_leaves(root, stop_layer=2)
    assert client.chunkedgraph.is_latest_roots([root]).tolist() == [True]
    edges = client.chunkedgraph.level2_chunk_graph(root)
    assert {node for edge in edges for node in edge} == (set(nodes.tolist()) if len(nodes) > 1 else set())
    soon(client, nodes.tolist())
    skeleton, mesh = pcg_skel.pcg_skeleton(root, client=client, return_mesh=True, require_complete=True)
    assert len(mesh.vertices) == len(nodes)
    assert np.isfinite(skeleton.vertices).all()
    assert (skeleton.path_length() > 0) == (len(nodes) > 1)
    bounds = np.array([[1024, 1088], [512, 576], [20, 52]])
    here = client.chunkedgraph.get_leaves(root, bounds=bounds, stop_layer=2).tolist()
    assert here == [node for node in nodes.tolist() if not node & ((1 << 56) - (1 << 26))]
    among = client.chunkedgraph.level2_chunk_graph(root, bounds=bounds)
    assert among == [edge for edge in edges if set(edge) <= set(here)]


def check_history(client: CAVEclient, edit: dict[str, list[int]]) -> None:
    """The edit's roots, as the genuine client follows them."""
    graph, (old,), new = client.chunkedgraph, edit["old_root_ids"], edit["new_root_ids"]
    assert graph.is_latest_roots([old, *new]).tolist() == [False, *[True for _ in new]]
    assert sorted(graph.get_latest_roots(old).tolist()) == sorted(new)
    assert graph.get_original_roots(new).tolist() == [old]
    (made,) = set(graph.get_root_timestamps(new).tolist())
    assert graph.get_root_timestamps([old], latest=True)[0] < made
    assert graph.get_root_id(edit["new_l2_ids"][0]) in new
    past = graph.get_oldest_timestamp()
    gone, come = graph.get_delta_roots(past)
    assert (set(gone.tolist()), sorted(come.tolist())) == ({old}, sorted(new))
    assert set(graph.get_leaves(old, stop_layer=2).tolist()) - set(edit["new_l2_ids"])


def soon(client: CAVEclient, ids: list[int]) -> dict[str, Any]:
    """What the genuine client reads of nodes, as soon as all of them have features."""
    until = time.monotonic() + 30
    while True:
        data: dict[str, Any] = client.l2cache.get_l2data(ids)
        assert sorted(data) == sorted(map(str, ids))
        if all(data.values()):
            return data
        assert time.monotonic() < until, data
        time.sleep(0.1)


def snippet(said: str, node: int) -> Any:
    """Run the Python example that it prints, with an L2 id; returns the result."""
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
    assert error.endswith("all others were stopped\n")
    assert up.leftovers() == []


def test_sigterm_while_it_starts(up: Up) -> None:
    up.read_until("--topics local")
    up.process.terminate()
    assert up.finish() == (0, "")
    assert up.leftovers() == []
    assert up.written_elsewhere() == []


def test_killed_it_leaves_nothing_that_runs_and_starts_again(up: Up) -> None:
    """What it has left that is temporary is removed then; what others have put there stays."""
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


# ------------------------------------------------------------------ mistakes
def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["up", *map(str, arguments)])
    return done.exit_code, done.output


def test_without_a_cloud_sdk_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulators, "_USUAL_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    status, said = run(tmp_path / "stack")
    assert (status, said) == (2, f"error: {BIGTABLE.how_to_get_it}\n{PUBSUB.how_to_get_it}\n")
    for part in (
        "components install bigtable`",
        "components install pubsub-emulator`",
        "https://adoptium.net",
    ):
        assert part in said
    assert not (tmp_path / "stack").exists()


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only Google Cloud SDK, by what is in it."""
    sdk = tmp_path / "sdk"
    for name in ("bin/gcloud", *(f"platform/{program.in_platform}" for program in (BIGTABLE, PUBSUB))):
        (sdk / name).parent.mkdir(parents=True, exist_ok=True)
        (sdk / name).touch(mode=0o755)
    monkeypatch.setattr(emulators, "_USUAL_PLACES", ())
    return sdk


def test_without_java_it_says_how_to_get_that_alone(
    tmp_path: Path, sdk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sdk / "bin"))
    status, said = run(tmp_path / "stack")
    assert (status, said) == (
        2,
        "error: java is not on PATH, and the Pub/Sub emulator needs it: get it by "
        "`apt install default-jre-headless`, or from https://adoptium.net\n",
    )
    assert not (tmp_path / "stack").exists()


def test_emulators_are_found_beside_gcloud(sdk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = shutil.which("java")
    monkeypatch.setenv("PATH", str(sdk / "bin"))
    assert BIGTABLE.find() == str(sdk / "platform" / BIGTABLE.in_platform)
    assert PUBSUB.find() is None
    monkeypatch.setenv("PATH", f"{sdk / 'bin'}:{Path(java).parent if java else ''}")
    assert (PUBSUB.find() is None) == (java is None)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize("name", ["api", "bigtable", "pubsub"])
def test_a_port_that_is_taken(tmp_path: Path, name: str, taken_port: int) -> None:
    for folder in (tmp_path, tmp_path / "new"):
        status, said = run(folder, f"--{name}-port", taken_port)
        assert status == 2
        assert f"error: port {taken_port}: Address already in use: choose another with --{name}-port" in said
    assert list(tmp_path.iterdir()) == []


def test_one_port_for_two(tmp_path: Path) -> None:
    assert run(tmp_path, "--api-port", 65001, "--pubsub-port", 65001) == (
        2,
        "error: port 65001 is given twice: expected different ones\n",
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, said = run(tmp_path / "file" / "stack")
    assert (status, said) == (2, f"error: cannot write to {tmp_path}/file/stack: Not a directory\n")


@pytest.mark.parametrize("name", ["tmp/a.csv", "logs/api.log", "up-tmp-a/b", "segmentation/info", "a"])
def test_a_folder_with_other_files(tmp_path: Path, taken_port: int, name: str) -> None:
    """It is refused, and stays as it is; the port is so that it ends in any case."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    assert run(tmp_path, "--api-port", taken_port) == (
        2,
        f"error: {tmp_path} has other files ({Path(name).parts[0]}): expected a new or empty "
        "folder, or that of an earlier `l2features up`\n",
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "precious"


def test_another_data_sets_file(tmp_path: Path, taken_port: int) -> None:
    config = tmp_path / "datasets.yml"
    config.write_text("minnie65: {}\n")
    assert run(tmp_path, "--api-port", taken_port) == (
        2,
        f"error: {config} exists and is not this sample's: choose another directory\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["datasets.yml"]


@pytest.mark.parametrize("mark", [(), ("up.lock",)])
def test_a_folder_with_the_sample_and_one_that_was_moved(
    tmp_path: Path, taken_port: int, mark: tuple[str, ...]
) -> None:
    folder, moved = tmp_path / "first", tmp_path / "second"
    config = make_sample(folder, Sample(graph=GRAPH))
    for name in mark:
        (folder / name).touch()
    port_is_taken = f"error: port {taken_port}: Address already in use"
    assert run(folder, "--api-port", taken_port)[1].startswith(port_is_taken)
    folder.rename(moved)
    assert run(moved, "--api-port", taken_port) == (
        2,
        f"error: {moved / config.name} is of a sample that was written at another path, and moved or copied "
        "here: remove datasets.yml and segmentation/ to write it again, or choose another directory\n",
    )
    assert {path.name for path in moved.iterdir()} == {"datasets.yml", "segmentation", *mark}
    (moved / "datasets.yml").unlink()
    shutil.rmtree(moved / "segmentation")
    assert run(moved, "--api-port", taken_port)[1].startswith(port_is_taken)


# ------------------------------------------------------------------ the supervisor
def test_what_a_command_has_started_ends_with_it(tmp_path: Path) -> None:
    """Also where it does not listen to SIGTERM, and a second signal comes."""
    code = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "sleep = subprocess.Popen(['sleep', '600']); print('up', flush=True); sleep.wait()"
    with Supervisor(lambda **more: {**os.environ, **more}, tmp_path) as supervisor:
        first = supervisor.start("first", [sys.executable, "-c", code], {})
        supervisor.wait_until(lambda: "up" in first.printed(), "first", 20)
        supervisor.next_stage()
        second = supervisor.start("second", ["sh", "-c", "echo $A; exit 7"], {"A": "said"})
        family = [psutil.Process(first.process.pid), *psutil.Process(first.process.pid).children()]
        with pytest.raises(Ended, match=r"second ended with status 7: see .*second.log\n  said"):
            supervisor.watch()
        assert second.process.returncode == 7
        supervisor.signals = 2
    assert len(family) == 2
    psutil.wait_procs(family, timeout=10)
    assert not any(p.is_running() for p in family)
