"""Tests of dead letters: their fields, JSON and folder."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2features.core.errors import ConfigError
from l2features.core.ids import as_ids
from l2features.messages.decoding import Reason
from l2features.messages.outcomes import Outcome
from l2features.messages.parts import Delivery
from l2features.pubsub.dead_letters import open_dead_letters, open_letter_box
from l2features.pubsub.letter import DeadLetter, DeadLetterError, Refusal, dead_letter
from l2features.pubsub.letter_folder import LetterFolder
from l2features.pubsub.letter_topic import letter_of
from l2features.pubsub.recorded import find_messages, read_message
from tests.support.letters import LARGEST, LETTER, NOW, texts
from tests.support.updates import EDIT

refusals = st.builds(Refusal, texts, texts, st.lists(st.integers(0, LARGEST), max_size=4).map(tuple), texts)
letters = st.builds(
    DeadLetter,
    st.binary(max_size=50),
    st.dictionaries(texts, texts, max_size=4),
    st.lists(refusals, max_size=3).map(tuple),
    st.integers(1, 99),
    st.just(NOW),
)


# ------------------------------------------------------------------ a letter
@given(letters)
def test_json_keeps_everything(letter: DeadLetter) -> None:
    again = DeadLetter.from_json(letter.to_json())
    assert again == letter
    assert again.name == letter.name


def test_a_letter_of_an_older_version_is_read() -> None:
    stored = Path(__file__).parents[1] / "data" / "stored" / "dead_letter_format_1.json"
    assert DeadLetter.from_json(stored.read_text()) == LETTER


@pytest.mark.parametrize("version", [2, 0, "1", None, 1.0, True])
def test_a_letter_of_a_newer_format_is_refused_by_name(tmp_path: Path, version: object) -> None:
    content = {**json.loads(LETTER.to_json()), "format": version}
    (tmp_path / "new.json").write_text(json.dumps(content))
    box = open_letter_box(str(tmp_path))
    assert list(box.letters()) == []
    [problem] = box.unread
    assert problem.startswith(f"{tmp_path}/new.json: dead letter of format {version!r}, expected 1")
    with pytest.raises(DeadLetterError, match="dead letter of format 2"):
        letter_of(b"", {"dead_letter_format": "2", "dead_letter_reasons": "x"}, 0.0)
    assert letter_of(b"", {"dead_letter_format": "1"}, 0.0).reasons == []


def test_the_json_has_documented_keys() -> None:
    content = json.loads(LETTER.to_json())
    assert content["payload"] == "gAT/"
    assert content["attributes"] == LETTER.attributes
    assert content["time"] == "2026-11-21T00:27:44+00:00"
    assert content["reasons"][0]["l2_ids"] == ["7", "18446744073709551615"]
    assert (LETTER.reasons, LETTER.ids) == (["other_layer", "not_an_integer"], [7, LARGEST])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "{}",
        LETTER.to_json()[:-9],
        LETTER.to_json().replace("gAT/", "gAT"),
        b"\xff",
        "[" * 100_000,
        LETTER.to_json().replace('"attempts": 2', '"attempts": Infinity'),
    ],
    ids=range(8),
)
def test_invalid_letters(text: str) -> None:
    with pytest.raises(DeadLetterError, match="not a dead letter"):
        DeadLetter.from_json(text)


def test_a_letter_has_the_message_and_its_causes() -> None:
    delivery = Delivery("key", b"abc", EDIT, attempts=3)
    causes = [Outcome.refused(Reason.OTHER_LAYER, "", as_ids([5, LARGEST]), "sample")]
    letter = dead_letter(delivery, causes, NOW)
    assert (letter.data, letter.attributes, letter.attempts, letter.time) == (b"abc", EDIT, 4, NOW)
    assert letter.refusals[0][0] == "other_layer"
    assert letter.refusals[0][2:] == ((5, LARGEST), "sample")
    assert letter.delivery("k") == Delivery("k", b"abc", EDIT, 4)


def test_a_name_depends_on_the_message_alone() -> None:
    other = DeadLetter(LETTER.data, dict(sorted(LETTER.attributes.items())), (), 9, datetime.now(UTC))
    assert other.name == LETTER.name
    names = {DeadLetter(d, a, (), 1, NOW).name for d in (b"", b"a") for a in ({}, {"a": ""}, {"": "a"})}
    assert len(names) == 6


# ------------------------------------------------------------------ a folder
def test_a_folder_has_one_file_per_message(tmp_path: Path) -> None:
    folder = LetterFolder(tmp_path / "a" / "dead")
    for letter in (LETTER, DeadLetter(b"", {}, (), 1, NOW), LETTER):
        folder.put(letter)
    found = list(folder.letters())
    assert [name for name, _ in found] == sorted(letter.name for _, letter in found)
    assert LETTER in [letter for _, letter in found]
    assert len(list(folder.path.iterdir())) == len(found) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeadLetterError, match="cannot write a dead letter"):
        LetterFolder(tmp_path / "file" / "dead").put(LETTER)
    with pytest.raises(DeadLetterError, match="does not exist"):
        list(LetterFolder(tmp_path / "none").letters())
    with pytest.raises(ConfigError, match="expected projects/PROJECT/topics/NAME"):
        open_dead_letters("projects/p/subscriptions/dead")
    assert isinstance(open_dead_letters(str(tmp_path)), LetterFolder)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_the_umask_decides_who_may_read_a_letter(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        LetterFolder(tmp_path).put(LETTER)
    finally:
        os.umask(before)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    "where",
    [
        "gs://bucket/dead",
        "file:///tmp/x",
        "//pubsub.googleapis.com/projects/p/topics/t",
        "topics/dead",
        "subscriptions/dead",
    ],
)
def test_addresses_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="expected projects/PROJECT/topics/NAME, or a folder of this"):
        open_dead_letters(where)
    with pytest.raises(ConfigError, match="projects/PROJECT/subscriptions/NAME, or a folder of this"):
        open_letter_box(where)
    if ":" not in where and not where.startswith("/"):
        open_dead_letters(f"./{where}").put(LETTER)
        assert [letter for _, letter in open_letter_box(f"./{where}").letters()] == [LETTER]


def test_recorded_messages(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"payload")
    (tmp_path / "b.json").write_text('{"attributes": {"table_id": "t"}, "more": 1}')
    LetterFolder(tmp_path).put(LETTER)
    (tmp_path / "notes.txt").write_text("")
    files = find_messages(tmp_path)
    assert len(files) == 2
    found = {delivery.data: delivery for delivery in map(read_message, files)}
    assert found[b"payload"][1:5] == (b"payload", {"table_id": "t"}, 0, True)
    assert found[LETTER.data][1:5] == (LETTER.data, LETTER.attributes, 2, True)
    assert find_messages(tmp_path / "b.json") == find_messages(tmp_path / "b.bin") == [tmp_path / "b.bin"]
    with pytest.raises(ConfigError, match=r"expected a file NAME.bin or NAME.json, or a folder of these"):
        find_messages(tmp_path / "c.bin")
