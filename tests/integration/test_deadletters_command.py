"""Tests of ``l2features deadletters`` with a folder or a subscription: list, show and replay."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from l2features.core.geometry import Chunk
from l2features.pubsub import letter_topic as box
from l2features.pubsub.letter import DeadLetter
from l2features.pubsub.letter_folder import LetterFolder
from l2features.pubsub.letter_topic import LetterTopic
from l2features.testing.emulators import PubSubEmulator
from l2features.testing.stores import chunk_rows, lose, open_table
from tests.support.command import run
from tests.support.letters import LARGEST, LETTER, NOW, REFUSALS, Subscribed
from tests.support.updates import EDIT

FIRST = Chunk(0, 0, 0)


# ------------------------------------------------------------------ a folder
def test_list_and_show(tmp_path: Path) -> None:
    folder = tmp_path / "dead"
    LetterFolder(folder).put(LETTER)
    LetterFolder(folder).put(DeadLetter(b"", {"table_id": "a\x1b[2Jb\n"}, (), 1, NOW))
    listed = run("deadletters", "list", folder)
    assert listed.exit_code == 0
    assert (
        f"{LETTER.name}  2026-11-21 00:27:44    2  sample  other_layer,not_an_integer  2 ids" in listed.stdout
    )
    assert "\x1b" not in listed.stdout
    assert len(listed.stdout.splitlines()) == 2
    lines = [json.loads(line) for line in run("deadletters", "list", folder, "--json").stdout.splitlines()]
    assert {line["name"]: line["bytes"] for line in lines}[LETTER.name] == 3
    shown = run("deadletters", "show", folder, LETTER.name[:8]).stdout
    assert "other_layer: data set sample: 2 ids, the first 7: is not of layer 2\n          7\n" in shown
    assert str(LARGEST) in shown
    assert "attribute table_id = sample" in shown
    command = [sys.executable, "-m", "l2features.cli", "deadletters", "show", str(folder), LETTER.name]
    assert subprocess.run([*command, "--payload"], capture_output=True, check=True).stdout == LETTER.data
    none = run("deadletters", "show", folder, "zz")
    assert (none.exit_code, f"0 letters in {folder} match" in none.output) == (2, True)
    assert run("deadletters", "show", folder, "").exit_code == 2
    assert run("deadletters", "list", tmp_path / "none").exit_code == 1
    (folder / "x.json").write_text("{}")
    assert "x.json: not a dead letter" in run("deadletters", "list", folder).stderr


def test_replay_computes_what_it_can(config: Path, tmp_path: Path) -> None:
    store = open_table(config)
    rows = chunk_rows(store, FIRST)
    lose(store, FIRST, 2)
    edits = [pickle.dumps({"new_lvl2_ids": ids}) for ids in ([int(rows.ids[0])], [int(rows.ids[1]), 7])]
    for data in edits:
        LetterFolder(tmp_path / "dead").put(DeadLetter(data, EDIT, REFUSALS, 4, NOW))
    (tmp_path / "dead" / f"{DeadLetter(edits[1], EDIT, (), 1, NOW).name}.json").rename(
        tmp_path / "dead" / "x.json"
    )
    done = run("deadletters", "replay", tmp_path / "dead", "--config", config)
    assert (done.exit_code, done.stdout) == (1, "1 done, 1 kept for permanent errors, 0 for other errors\n")
    assert "x: data set sample: id 7 is not of layer 2" in done.stderr
    assert chunk_rows(store, FIRST).features.tobytes() == rows.features.tobytes()
    left = list(LetterFolder(tmp_path / "dead").letters())
    assert [(letter.data, letter.attempts, letter.ids) for _, letter in left] == [(edits[1], 5, [7])]
    assert left[0][0] == left[0][1].name


@pytest.fixture
def with_other_files(tmp_path: Path) -> Path:
    """Return a folder with two dead letters among other files."""
    folder = tmp_path / "dead"
    for data in (b"abc", b"other"):
        LetterFolder(folder).put(DeadLetter(data, {"table_id": "t"}, REFUSALS, 2, NOW))
    first, _ = sorted(folder.iterdir())
    for name in ("!notes", f"{first.stem}x"):
        (folder / f"{name}.json").write_text("{}")
    (folder / "zz.json").mkdir()
    (folder / "passed-over.txt").write_text("")
    return folder


def names_the_other_files(stderr: str, folder: Path) -> bool:
    files = sorted(f for f in folder.glob("*.json") if f.is_dir() or f.read_text() == "{}")
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return [line.split(": ")[1] for line in lines] == [str(file) for file in files]


def test_other_files_do_not_stop_a_list(with_other_files: Path) -> None:
    listed = run("deadletters", "list", with_other_files)
    assert (listed.exit_code, len(listed.stdout.splitlines())) == (1, 2)
    assert "2 dead letters" in listed.stderr
    assert names_the_other_files(listed.stderr, with_other_files)
    assert (
        len(run("deadletters", "list", with_other_files, "--json", "--limit", "2").stdout.splitlines()) == 2
    )
    for name, _ in LetterFolder(with_other_files).letters():
        shown = run("deadletters", "show", with_other_files, name)
        assert shown.exit_code == (1 if f"{name}x.json" in shown.stderr else 0)
        assert "attempts  2" in shown.stdout
    notes = run("deadletters", "show", with_other_files, "!")
    assert (notes.exit_code, f"{with_other_files}/!notes.json: not a dead letter" in notes.stderr) == (
        2,
        True,
    )


def test_other_files_do_not_stop_a_replay(
    pubsub: PubSubEmulator, with_other_files: Path, config: Path
) -> None:
    computed = run("deadletters", "replay", with_other_files, "--config", config)
    assert (computed.exit_code, computed.stdout) == (
        1,
        "0 done, 2 kept for permanent errors, 0 for other errors\n",
    )
    target = Subscribed()
    published = run("deadletters", "replay", with_other_files, "--topic", target.topic)
    assert (published.exit_code, published.stdout) == (1, "2 published\n")
    assert names_the_other_files(published.stderr, with_other_files)
    assert target.messages() == [b"abc", b"other"]
    assert len(list(with_other_files.glob("*.json"))) == 3


@pytest.mark.parametrize("command", ["list", "show", "replay"])
def test_an_address_is_no_folder(command: str) -> None:
    done = run("deadletters", command, "gs://bucket/dead", *(["a"] if command == "show" else []))
    assert done.exit_code == 2
    assert "'gs://bucket/dead': expected projects/PROJECT/subscriptions/NAME, or a folder" in done.stderr


def test_replay_keeps_what_failed(config: Path, tmp_path: Path) -> None:
    LetterFolder(tmp_path / "dead").put(DeadLetter(pickle.dumps({"new_lvl2_ids": [5]}), EDIT, (), 4, NOW))
    before = [file.read_bytes() for file in (tmp_path / "dead").iterdir()]
    (tmp_path / "l2cache.db").unlink()
    done = run("deadletters", "replay", tmp_path / "dead", "--config", config)
    assert (done.exit_code, done.stdout) == (1, "0 done, 0 kept for permanent errors, 1 for other errors\n")
    assert "there is no file" in done.stderr
    assert [file.read_bytes() for file in (tmp_path / "dead").iterdir()] == before


def test_replay_publishes_to_a_topic(pubsub: PubSubEmulator, tmp_path: Path) -> None:
    subscribed, folder = Subscribed(), tmp_path / "dead"
    other = DeadLetter(b"other", {"table_id": "t"}, (), 1, NOW)
    LetterFolder(folder).put(LETTER)
    LetterFolder(folder).put(other)
    wrong = run("deadletters", "replay", folder, "--topic", "dead")
    assert (wrong.exit_code, "expected projects/PROJECT/topics/NAME" in wrong.output) == (2, True)
    away = run("deadletters", "replay", folder, "--topic", "projects/test-project/topics/not-there")
    assert (away.exit_code, len(list(folder.iterdir()))) == (1, 2)
    done = run("deadletters", "replay", folder, other.name, "--topic", subscribed.topic)
    assert (done.exit_code, done.stdout) == (0, "1 published\n")
    assert subscribed.message() == (other.data, other.attributes)
    assert [letter for _, letter in LetterFolder(folder).letters()] == [LETTER]


# ------------------------------------------------------------------ a subscription
@pytest.fixture
def queue(pubsub: PubSubEmulator, monkeypatch: pytest.MonkeyPatch) -> Subscribed:
    monkeypatch.setattr(box, "QUIET_S", 1.0)
    return Subscribed()


def test_a_subscription_is_listed_like_a_folder(queue: Subscribed, tmp_path: Path) -> None:
    """Check that listing keeps the letters, lists duplicates once and accepts malformed attributes."""
    topic, large = LetterTopic(queue.topic), DeadLetter(bytes(11_000_000), EDIT, REFUSALS[:1], 1, NOW)
    for letter in (LETTER, LETTER, large):
        LetterFolder(tmp_path).put(letter)
        topic.put(letter)
    strange = {"time": "soon", "attempts": "-1", "ids": "a,\x1b[2J"}
    queue.publish(b"x", attributes={f"dead_letter_{name}": value for name, value in strange.items()})
    queue.publish(bytes(9_000_000), attributes={"table_id": "\x1b[2J"})
    for _ in range(2):
        listed = run("deadletters", "list", queue.subscription)
        assert listed.exit_code == 0, listed.output
        assert "4 dead letters" in listed.stderr
        lines = set(listed.stdout.splitlines())
        assert lines > set(run("deadletters", "list", tmp_path).stdout.splitlines())
        assert "\x1b" not in listed.stdout
    assert len(queue.messages()) == 5
    some = run("deadletters", "list", queue.subscription, "--limit", "2", "--json")
    assert len([json.loads(line) for line in some.stdout.splitlines()]) == 2
    shown = run("deadletters", "show", queue.subscription, LETTER.name[:8]).stdout
    assert "reason    other_layer,not_an_integer: 2 ids, the first 7: is not of layer 2; 'x'" in shown
    assert f"\n          7\n          {LARGEST}\n" in shown
    left_out = run("deadletters", "show", queue.subscription, large.name)
    assert "payload of 11000000 bytes, sha256 " in left_out.stdout
    none = run("deadletters", "show", queue.subscription, "zz")
    assert (none.exit_code, "0 letters in projects/" in none.output) == (2, True)


def test_replay_of_a_subscription(queue: Subscribed, config: Path) -> None:
    """Check that applied letters are acknowledged; refused ones and ones without payload are redelivered."""
    store = open_table(config)
    rows = chunk_rows(store, FIRST)
    lose(store, FIRST, 1)
    good, bad = (pickle.dumps({"new_lvl2_ids": [node]}) for node in (int(rows.ids[0]), 7))
    for data in (good, bad, good, bytes(11_000_000)):
        LetterTopic(queue.topic).put(DeadLetter(data, EDIT, REFUSALS, 4, NOW))
    done = run("deadletters", "replay", queue.subscription, "--config", config)
    assert (done.exit_code, done.stdout) == (
        1,
        "1 done, 2 kept for permanent errors, 0 for other errors\n",
    ), done.stderr
    assert "data set sample: id 7 is not of layer 2" in done.stderr
    assert "too large for the topic" in done.stderr
    assert chunk_rows(store, FIRST).features.tobytes() == rows.features.tobytes()
    assert queue.messages() == [b"", bad]


def test_replay_of_a_subscription_to_a_topic(queue: Subscribed) -> None:
    target, other = Subscribed(), DeadLetter(b"other", {"table_id": "t"}, (), 1, NOW)
    for letter in (LETTER, other):
        LetterTopic(queue.topic).put(letter)
    named = run("deadletters", "replay", queue.subscription, other.name[:9], "--topic", target.topic)
    assert (named.exit_code, named.stdout) == (0, "1 published\n"), named.stderr
    assert target.message() == (other.data, other.attributes)
    assert queue.messages() == [LETTER.data]
    assert run("deadletters", "replay", queue.subscription, "--topic", target.topic).exit_code == 0
    assert target.message() == (LETTER.data, LETTER.attributes)
    assert queue.messages() == []


def test_a_missing_subscription(pubsub: PubSubEmulator) -> None:
    topic = run("deadletters", "list", "projects/p/topics/dead")
    assert (topic.exit_code, "expected projects/PROJECT/subscriptions/NAME" in topic.output) == (2, True)
    away = run("deadletters", "list", "projects/test-project/subscriptions/not-there")
    assert (away.exit_code, "not-there: cannot pull: 404" in away.output) == (1, True)


def test_an_unpublishable_letter_stays(pubsub: PubSubEmulator, tmp_path: Path) -> None:
    """Check that unpublishable letters stay, and do not block the others."""
    for letter in (DeadLetter(bytes(50_000_000), EDIT, (), 1, NOW), LETTER, DeadLetter(b"", {}, (), 1, NOW)):
        LetterFolder(tmp_path).put(letter)
    target = Subscribed()
    done = run("deadletters", "replay", tmp_path, "--topic", target.topic)
    assert (done.exit_code, done.stdout) == (1, "1 published\n"), done.stderr
    assert "cannot publish 50000000 bytes: expected 9996000 at most" in done.stderr
    assert target.message() == (LETTER.data, LETTER.attributes)
    assert len(list(tmp_path.iterdir())) == 2
