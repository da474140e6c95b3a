"""Tests of replaying recorded messages, against the recorded features of every node."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.update_transforms import build
from l2features.config.datasets import load_datasets
from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from l2features.messages.parts import Delivery
from l2features.pubsub.letter import DeadLetter
from l2features.pubsub.letter_folder import LetterFolder
from l2features.testing.stores import INSTANCE, PROJECT, open_table
from l2features.updates.updater import Update
from tests.support.jobs import Recordings
from tests.support.recordings import check_values
from tests.support.update_replay import (  # noqa: F401 (fixtures)
    EDIT,
    MISSING,
    Evil,
    at_t0,
    config,
    edit,
    named,
    record,
    rep,
    run_update,
)


def table_bytes(config: Path, recordings: Recordings) -> bytes:
    """Return the bytes of all recorded ids' features, and of the mask of present values."""
    rows = open_table(config).read(sorted(map(int, recordings.json("features.json")["features"])))
    return rows.features.tobytes() + rows.present.tobytes()


def letters(folder: Path) -> dict[bytes, DeadLetter]:
    return {letter.data: letter for _, letter in LetterFolder(folder).letters()}


def test_every_named_node_has_its_recorded_features(config: Path, recordings: Recordings) -> None:
    """Replay all messages twice, with superseded nodes and a message for an unknown table."""
    features = recordings.json("features.json")["features"]
    ids = named(recordings)
    assert sum(not features[str(i)]["valid_at_t1"] for i in ids) > 5
    assert not open_table(config).read(as_ids(ids)).found.any()
    messages = recordings.folder / "pubsub"
    dead = config.parent / "dead"
    done = run_update(config, messages, "--dead_letters", str(dead))
    assert "18 of 19 messages done" in done.stdout
    assert done.returncode == 1
    assert [letter.reasons for letter in letters(dead).values()] == [["unknown_table"]]
    rows = open_table(config).read(as_ids(ids))
    check_values(rows, {str(i): features[str(i)] for i in ids})
    differing = [r["label"] for r in rows.features if r["rep_coord_nm"].tolist() != rep(features, r)]
    assert len(differing) <= 1  # its voxels tie, and the recorded pick depends on hash order
    before = table_bytes(config, recordings)
    again = run_update(config, messages, "--dead_letters", str(dead))
    assert f"0 written, 0 empty, {len(ids)} present" in again.stdout
    assert table_bytes(config, recordings) == before
    assert len(list(dead.iterdir())) == 1
    assert next(iter(letters(dead).values())).attempts == 1


def test_recompute_writes_the_same_bytes(config: Path, recordings: Recordings, tmp_path: Path) -> None:
    """Replay each message twice, in another order. Only recomputing restores a changed row."""
    messages = tmp_path / "messages"
    messages.mkdir()
    for file in (recordings.folder / "pubsub").glob("[0-9]*"):
        shutil.copy(file, messages / f"{99 - int(file.name[:2])}{file.suffix}")
        shutil.copy(file, messages / f"again_{file.name}")
    assert run_update(config, messages).returncode == 0
    before = table_bytes(config, recordings)
    store, ids = open_table(config), named(recordings)
    spoilt = store.read(as_ids(ids[:1])).features.copy()
    spoilt["size_nm3"] += 1
    store.write(spoilt)
    assert run_update(config, messages).returncode == 0
    assert table_bytes(config, recordings) != before
    done = run_update(config, messages, "--recompute")
    assert f"{2 * len(ids)} written" in done.stdout
    assert table_bytes(config, recordings) == before


def test_poison(config: Path, recordings: Recordings, tmp_path: Path) -> None:
    """Check each bad message's dead letter, and that its valid ids are computed."""
    good, other, third = named(recordings)[:3]
    first = open_table(config).geometry().chunk_id((0, 0, 0))  # type: ignore[union-attr, arg-type]
    witness = tmp_path / "witness"
    poison: dict[str, tuple[bytes, dict[str, str], list[str]]] = {
        "random": (np.random.default_rng(1).bytes(333), EDIT, ["bad_pickle"]),
        "truncated": (edit(good)[:-4], EDIT, ["bad_pickle"]),
        "system": (pickle.dumps(Evil(f"touch {witness}")), EDIT, ["bad_pickle"]),
        "system_inside": (edit(good, Evil(f"touch {witness}")), EDIT, ["bad_pickle"]),
        "empty_edit": (b"", EDIT, ["bad_pickle"]),
        "odd": (b"1234567", MISSING, ["bad_length"]),
        "no_table": (edit(good), {"remesh": "true"}, ["no_table"]),
        "other_table": (edit(good), {**EDIT, "table_id": "other"}, ["unknown_table"]),
        "words": (edit("x", -1, 1.5, good), EDIT, ["not_an_integer", "out_of_range"]),
        "layers": (edit(7, 3 << 56, first, other), EDIT, ["no_segment", "other_layer"]),
        "outside": (as_ids([(2 << 56) | (1 << 52) | 5, third]).tobytes(), MISSING, ["outside_grid"]),
        "lag": (edit(first + 60_000), EDIT, ["unknown_node"]),
        "large": (bytes(11_000_000), MISSING, ["too_large"]),
    }
    for name, (data, attributes, _) in poison.items():
        record(tmp_path / "messages", name, data, attributes)
    record(tmp_path / "messages", "nothing", b"", MISSING)
    record(tmp_path / "messages", "no_ids", edit(), EDIT)
    dead = tmp_path / "dead"
    done = run_update(config, tmp_path / "messages", "--dead_letters", str(dead), "--attempts", "2")
    assert (done.returncode, done.stdout.split(" done")[0]) == (1, "2 of 15 messages")
    assert "Traceback" not in done.stderr
    assert not witness.exists()
    kept = {
        (letter.data, tuple(letter.attributes.items())): letter for _, letter in LetterFolder(dead).letters()
    }
    assert len(kept) == len(poison)
    for data, attributes, reasons in poison.values():
        assert sorted(kept[data, tuple(attributes.items())].reasons) == reasons
    assert letters(dead)[poison["layers"][0]].ids == [7, first, 3 << 56]
    assert letters(dead)[poison["lag"][0]].ids == [first + 60_000]
    rows = open_table(config).read(as_ids([good, other, third, first + 60_000, 7]))
    assert rows.found.tolist() == [True, True, True, False, False]
    features = recordings.json("features.json")["features"]
    found = Rows(rows.features[:3], rows.present[:3])
    check_values(found, {str(i): features[str(i)] for i in (good, other, third)})
    again = run_update(config, dead, "--dead_letters", str(dead), "--attempts", "1")
    assert again.stdout.startswith("0 of 13 messages done")
    assert {letter.attempts for _, letter in LetterFolder(dead).letters()} == {2}


def test_a_transient_error_makes_no_dead_letter(config: Path, recordings: Recordings, tmp_path: Path) -> None:
    entries = json.loads(config.read_text())
    good = dict(entries["sample"])
    entries["sample"]["graph"] = f"bigtable://{PROJECT}/{INSTANCE}/away"
    entries["other"] = {**good, "l2cache_id": "not_there"}
    config.write_text(json.dumps(entries))
    record(tmp_path / "messages", "away", edit(*named(recordings)), {"table_id": "sample"})
    record(tmp_path / "messages", "not_there", edit(*named(recordings)), {"table_id": "other"})
    dead = tmp_path / "dead"
    done = run_update(config, tmp_path / "messages", "--dead_letters", str(dead), "--attempts", "1")
    assert done.stdout.startswith("0 of 2 messages done; ids: 0 written, 0 empty, 0 present")
    assert f"{2 * len(named(recordings))} failed" in done.stdout
    assert "2 messages failed: the same command retries them" in done.stderr
    assert not dead.exists()
    config.write_text(json.dumps({"sample": good}))
    assert run_update(config, tmp_path / "messages" / "away.json").returncode == 0


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--messages", "no/such/folder"], 2, "error: messages no/such/folder: expected a file NAME.bin"),
        (["--attempts", "0"], 2, "--attempts 0: expected 1 or more"),
        (["--dead_letters", "projects/p/topics/x"], 2, "expected projects/PROJECT/topics/NAME"),
        (["--nonsense"], 2, "unknown option --nonsense"),
        (["--runner", "Nonsense"], 2, "error: runner Nonsense: "),
        (["--config", "no.yml"], 2, "error: data sets file no.yml: No such file"),
    ],
)
def test_a_users_mistake(config: Path, tmp_path: Path, flags: list[str], status: int, words: str) -> None:
    record(tmp_path / "messages", "one", b"", MISSING)
    done = run_update(config, tmp_path / "messages", *flags)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["[1]", "{", '{"attributes": 5}', '{"payload": "!"}', None])
def test_files_without_a_message(config: Path, tmp_path: Path, content: str | None) -> None:
    record(tmp_path / "messages", "one", b"", MISSING)
    if content is None:
        (tmp_path / "messages" / "one.json").unlink()
    else:
        (tmp_path / "messages" / "one.json").write_text(content)
    done = run_update(config, tmp_path / "messages")
    assert done.returncode == 2
    assert done.stderr.startswith("error: message ")
    assert "one.json" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "messages" / "one.bin").unlink()
    if content is not None:
        assert "not a dead letter" in run_update(config, tmp_path / "messages").stderr


def test_only_the_last_attempt_makes_a_dead_letter(config: Path, tmp_path: Path) -> None:
    """Deliver an unknown node twice; one delivery may still be retried."""
    first = open_table(config).geometry().chunk_id((0, 0, 0))  # type: ignore[union-attr, arg-type]
    data = edit(first + 60_000)
    deliveries = [Delivery("later", data, EDIT, last=False), Delivery("never", data, {**EDIT, "n": "1"}, 6)]
    update = Update(tuple(load_datasets(config).values()), attempts=1)
    with beam.Pipeline("FnApiRunner") as pipeline:
        done = build(pipeline, beam.Create(deliveries), update, str(tmp_path / "dead"))
        verdicts = done | beam.Map(lambda result: (result.key, result.verdict))
        assert_that(verdicts, equal_to([("later", "retry"), ("never", "dead")]))
    kept = letters(tmp_path / "dead")
    assert [(letter.attempts, letter.reasons) for letter in kept.values()] == [(7, ["unknown_node"])]
