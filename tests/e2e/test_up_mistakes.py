"""Tests of errors of `l2features up`, and of its supervisor."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from l2features.cli.commands import main
from l2features.local import emulator_programs as emulators
from l2features.local.emulator_programs import BIGTABLE, PUBSUB
from l2features.local.sample.segmentation_files import Sample, make_sample
from l2features.local.services import GRAPH
from l2features.local.supervise import CommandSupervisor, Ended


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
    """Return the folder of a fake Google Cloud SDK. The usual install folders are not searched."""
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
        "error: port 65001 is given twice: expected different ports\n",
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, said = run(tmp_path / "file" / "stack")
    assert (status, said) == (2, f"error: cannot write to {tmp_path}/file/stack: Not a directory\n")


@pytest.mark.parametrize("name", ["tmp/a.csv", "logs/api.log", "up-tmp-a/b", "segmentation/info", "a"])
def test_a_folder_with_other_files(tmp_path: Path, taken_port: int, name: str) -> None:
    """The folder is refused and stays unchanged. A taken port ends the command if it accepts the folder."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    assert run(tmp_path, "--api-port", taken_port) == (
        2,
        f"error: {tmp_path} has other files ({Path(name).parts[0]}): expected a new or empty "
        "folder, or the folder of an earlier `l2features up`\n",
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
        f"error: {moved / config.name} is of a sample that was moved or copied here from another path: "
        "remove datasets.yml and segmentation/ to write the sample again, or choose another directory\n",
    )
    assert {path.name for path in moved.iterdir()} == {"datasets.yml", "segmentation", *mark}
    (moved / "datasets.yml").unlink()
    shutil.rmtree(moved / "segmentation")
    assert run(moved, "--api-port", taken_port)[1].startswith(port_is_taken)


# ------------------------------------------------------------------ the supervisor
def test_what_a_command_has_started_ends_with_it(tmp_path: Path) -> None:
    """A command that ignores SIGTERM ends, with its child, when the supervisor gets a second signal."""
    code = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "sleep = subprocess.Popen(['sleep', '600']); print('up', flush=True); sleep.wait()"
    with CommandSupervisor(lambda **more: {**os.environ, **more}, tmp_path) as supervisor:
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
