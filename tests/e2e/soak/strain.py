"""Load of edits and hostile messages on an updater, and checks of its results."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
from google.api_core.exceptions import GoogleAPICallError

from l2features.core.ids import as_ids
from l2features.core.schema import SIZE
from l2features.messages.decoding import Reason
from l2features.pubsub.letter import DeadLetter
from l2features.pubsub.letter_folder import LetterFolder
from l2features.store.base import Store
from l2features.testing.em import EditMessage, Editor, EmDataset, write_children
from l2features.testing.updating import ROOT, TimedFeed, UpdaterProcess, wait_for_rows
from tests.e2e.soak.footprint import Footprint, footprint
from tests.e2e.soak.hostile import Hostile, pickles, strange, wrong_ids

LONGEST_S = 120.0
TICK_S = 1.0
BURST_EVERY, BURST_EDITS = 60, 60
HOSTILE_EVERY, REPEAT_EVERY, SAMPLE_EVERY = 5, 3, 5


class Strain:
    """Puts load on an updater. ``expected`` maps a dead letter's name to its message and reason."""

    def __init__(self, dataset: EmDataset, feed: TimedFeed, store: Store, updater: UpdaterProcess) -> None:
        self.dataset, self.feed, self.store, self.updater = dataset, feed, store, updater
        self.editor, self.random = Editor(dataset, seed=5), np.random.default_rng(6)
        self.marker = dataset.config.parent / "something-ran"
        self.expected: dict[str, tuple[Hostile, Reason]] = {}
        self.largest_name = ""
        self.samples: list[Footprint] = []
        self.edits = self.repeats = 0
        self._sent: list[EditMessage] = []
        self._began = time.monotonic()

    def pids(self) -> set[int]:
        return {process.pid for process in self.updater.processes}

    def take_footprint(self) -> Footprint:
        self.samples.append(footprint(self.updater.processes, self._began))
        return self.samples[-1]

    def new_edit(self) -> EditMessage:
        """Split a node and write the new nodes to the graph; return the edit's message."""
        chunk = self.dataset.chunks[int(self.random.integers(len(self.dataset.chunks)))]
        ids = self.editor.split(chunk)
        write_children({node: self.dataset.children[node] for node in ids})
        self._sent.append(self.dataset.edit(ids))
        return self._sent[-1]

    def one_edit(self, behind: Sequence[Hostile] = ()) -> float:
        """Publish an edit right after the messages ``behind``; return the seconds until its rows exist."""
        edit = self.new_edit()
        for message in behind:
            self.publish_hostile(message)
        began = self.feed.publish_one(edit.data, edit.attributes)
        return wait_for_rows(self.store, edit.ids, self.updater, LONGEST_S, poll_s=0.02) - began

    def publish_hostile(self, message: Hostile) -> None:
        self.feed.publish_one(message.data, message.attributes)
        self._expect(message)

    def _expect(self, message: Hostile) -> None:
        if message.reason:
            self.expected[_letter_name(message)] = message, message.reason

    def publish_largest(self, messages: Sequence[Hostile]) -> None:
        """Publish the first of these messages that Pub/Sub accepts, and set `largest_name`."""
        for message in messages:
            try:
                self.publish_hostile(message)
            except GoogleAPICallError:
                continue
            self.largest_name = message.name
            return

    def replay(self, message: Hostile) -> float:
        """Apply a message from a file, because Pub/Sub may refuse it.

        Returns the peak memory, in MB, of the largest child process so far.
        """
        folder, config = self.dataset.config.parent, self.dataset.config
        (folder / "recorded.bin").write_bytes(message.data)
        (folder / "recorded.json").write_text(json.dumps({"attributes": dict(message.attributes)}))
        command = [sys.executable, "-m", "beam_jobs.update", "--config", str(config)]
        command += ["--messages", str(folder / "recorded.bin")]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        subprocess.run(
            [*command, "--dead_letters", str(self.updater.dead_letters)],
            cwd=ROOT,
            check=False,
            capture_output=True,
        )
        self._expect(message)
        return max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e3

    def check_letters(self, seconds: float) -> list[str]:
        """Wait for all dead letters, up to a timeout; return problems as text."""
        folder, until = self.updater.dead_letters, time.monotonic() + seconds
        while not all((folder / f"{name}.json").exists() for name in self.expected):
            self.updater.check()
            if time.monotonic() > until:
                break
            time.sleep(0.5)
        found = dict(LetterFolder(folder).letters())
        wrong = [f"no dead letter: {m.name}" for name, (m, _) in self.expected.items() if name not in found]
        for name, letter in found.items():
            message, reason = self.expected.get(name, (None, None))
            if message is None or letter.reasons != [reason]:
                what = f"{message.name}, expected {reason}" if message else "of a message that is none"
                wrong.append(f"dead letter with {', '.join(letter.reasons)}: {what}")
        return wrong

    def soak(self, seconds: float) -> list[Footprint]:
        """Send edits and invalid messages for some seconds; return samples of the updater's resource use."""
        began, first = time.monotonic(), len(self.samples)
        hostile: Iterator[Hostile] = iter(())
        for tick in itertools.count():
            time.sleep(max(0.0, began + tick * TICK_S - time.monotonic()))
            if time.monotonic() > began + seconds:
                return [s._replace(seconds=s.seconds - (began - self._began)) for s in self.samples[first:]]
            self.updater.check()
            n = BURST_EDITS if tick % BURST_EVERY == BURST_EVERY - 1 else 1
            self.feed.publish_all([self.new_edit() for _ in range(n)])
            self.edits += n
            if tick % HOSTILE_EVERY == 0:
                message = next(hostile, None)
                if message is None:
                    hostile = self._more_hostile()
                    message = next(hostile)
                self.publish_hostile(message)
            if tick % REPEAT_EVERY == 0:
                edit = self._sent[int(self.random.integers(len(self._sent)))]
                self.feed.publish_one(edit.data, edit.attributes)
                self.repeats += 1
            if tick % SAMPLE_EVERY == SAMPLE_EVERY - 1:
                self.take_footprint()
        raise AssertionError("unreachable")

    def wait_for_all(self) -> int:
        """Wait for the rows of all edits, up to a timeout; return the number missing."""
        ids = as_ids([node for edit in self._sent for node in edit.ids])
        until = time.monotonic() + LONGEST_S
        while lost := int((~self.store.read(ids, (SIZE,)).found).sum()):
            if time.monotonic() > until:
                break
            time.sleep(1.0)
        return lost

    def _more_hostile(self) -> Iterator[Hostile]:
        kinds = pickles(self.random, self.marker), wrong_ids(self.dataset, self.random), strange(self.random)
        return itertools.chain(*kinds)


def _letter_name(message: Hostile) -> str:
    now = datetime.now(UTC)
    return DeadLetter(message.data, dict(message.attributes), (), 1, now).name
