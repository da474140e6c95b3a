"""Tests of the chaos test: it passes at a small scale, and its checks find errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from l2features.messages.decoding import Reason
from l2features.messages.outcomes import Outcome
from l2features.messages.parts import Delivery
from l2features.pubsub.letter import dead_letter
from l2features.pubsub.letter_folder import LetterFolder
from l2features.store.base import Meta, open_store
from l2features.testing.emulators import HOW_TO_GET_IT, HOW_TO_GET_PUBSUB, find_emulator, find_pubsub_emulator
from l2features.testing.synthetic import Spec
from tests.e2e.chaos.checks import check_letters, check_rows, check_truth
from tests.e2e.chaos.messages import make_parcels
from tests.e2e.chaos.world import TABLE, World
from tests.support.jobs import ROOT, need_program


@pytest.fixture(autouse=True)
def _emulators(monkeypatch: pytest.MonkeyPatch) -> None:
    need_program(find_emulator(), HOW_TO_GET_IT)
    need_program(find_pubsub_emulator(), HOW_TO_GET_PUBSUB)
    for name in ("BIGTABLE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "CLOUD_VOLUME_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that it is again what it was


def test_a_worker_is_killed_and_bigtable_stopped() -> None:
    flags = "--messages 30 --grid 3,3,2 --only by_table --kills 1 --kill worker --pauses 1 --outages 0"
    more = "--quiet 1 --attempts 2"
    command = [sys.executable, "-m", "tests.e2e.chaos", *flags.split(), *more.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "PASS" in done.stdout


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """Check that missing, wrong and superfluous rows and dead letters are found."""
    with World(tmp_path, Spec(grid=(2, 2, 1)), edits=6) as world:
        store = open_store(world.dataset(TABLE).store, world.dataset(TABLE).l2cache_id)
        store.create(Meta("by_table", "precomputed://", world.t0, world.geometry))
        nodes = world.graphs[TABLE].children.items()
        rows = np.concatenate([world.segmentation.true_row(node, own) for node, own in nodes])
        store.write(rows[2:])
        rows["area_nm2"][1] += 1
        stranger = rows[1:2].copy()
        stranger["label"] += 1_000
        store.write(np.concatenate([rows[1:2], stranger]))
        store.close()
        found = {check.question.partition(": ")[2]: check.wrong for check in check_rows(world, TABLE)}
        assert found == {
            "ids missing": [str(rows["label"][0])],
            "rows with wrong bytes": [str(rows["label"][1])],
            "cells with several versions": [],
            "rows of what is no node": [str(stranger["label"][0])],
        }
        random = np.random.default_rng(1)
        assert check_truth(world, random).passed
        parcels = make_parcels(list(world.targets.values()), random, tmp_path / "witness")
    poison = [parcel for parcel in {p.letter_name: p for p in parcels}.values() if parcel.reason]
    letters = LetterFolder(tmp_path / "letters")
    good = next(parcel for parcel in parcels if parcel.good and not parcel.reason)
    for parcel in [*poison[2:], good]:
        reason = parcel.reason or Reason.BAD_NODE
        ids = np.array(parcel.bad_ids, dtype=np.uint64)
        letter = dead_letter(Delivery("", *parcel.message), [Outcome.refused(reason, "why", ids)])
        letters.put(letter)
    other = Outcome.refused(Reason.BAD_NODE, "why")
    letters.put(dead_letter(Delivery("", *poison[1].message), [other]))
    absent, other_reason, no_poison = check_letters(letters.path, parcels)
    assert [wrong.partition(":")[0] for wrong in absent.wrong] == [poison[0].letter_name]
    assert [wrong.partition(":")[0] for wrong in other_reason.wrong] == [poison[1].letter_name]
    assert [wrong.partition(":")[0] for wrong in no_poison.wrong] == [good.letter_name]
