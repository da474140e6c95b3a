"""The command ``l2features deadletters``: what there is in a folder of them, and to try it once more."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .command import EXIT_FAILED, config_option, user_errors
from .config import load_datasets
from .deadletters import SUFFIX, TOPIC, DeadLetter, DeadLetterError, Folder, dead_letter, read_letter
from .errors import ConfigError, L2FeaturesError
from .outcomes import Verdict, settle

if TYPE_CHECKING:
    from .update import Updater

BATCH = 100
"""Letters that are applied together; a payload has up to 10 MB."""
folder_argument = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


@click.group()
def deadletters() -> None:
    """Messages that could not succeed: which there are, why, and to try them once more.

    \b
    Example:
      l2features deadletters list dead
      l2features deadletters show dead 0123abcd
      l2features deadletters replay dead --config datasets.yml
    """


@deadletters.command("list")
@folder_argument
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each, with all ids and no payload.")
@user_errors
def list_letters(folder: Path, as_json: bool) -> None:
    """The dead letters of FOLDER: name, time, attempts, table, reasons and number of ids."""
    count = 0
    for file, letter in Folder(folder).letters():
        count += 1
        click.echo(_json_line(file, letter) if as_json else _line(file, letter))
    if not as_json:
        click.echo(f"{count} dead letters", err=True)


@deadletters.command()
@folder_argument
@click.argument("name")
@click.option("--payload", is_flag=True, help="Write the payload itself, and nothing else.")
@user_errors
def show(folder: Path, name: str, payload: bool) -> None:
    """All that the dead letter of FOLDER says whose name is NAME, or begins so."""
    letter = read_letter(_find(folder, name))
    if payload:
        sys.stdout.buffer.write(letter.data)
        sys.stdout.buffer.flush()
        return
    click.echo(f"time      {letter.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC\nattempts  {letter.attempts}")
    for key, value in sorted(letter.attributes.items()):
        click.echo(f"attribute {_shown(key)} = {_shown(value)}")
    click.echo(f"payload   {len(letter.data)} bytes, {letter.data[:40]!r}{'…' * (len(letter.data) > 40)}")
    for refusal in letter.refusals:
        where = f"data set {refusal.dataset}: " if refusal.dataset else ""
        click.echo(f"reason    {refusal.reason}: {_shown(where + refusal.detail)}")
        for node in refusal.ids:
            click.echo(f"          {node}")


@deadletters.command()
@folder_argument
@click.argument("names", metavar="[NAME…]", nargs=-1)
@click.option("--topic", metavar="TOPIC", help="Publish to projects/PROJECT/topics/NAME instead.")
@config_option
@user_errors
def replay(folder: Path, names: tuple[str, ...], topic: str | None, config: str | None) -> None:
    """Try the dead letters of FOLDER once more, those whose names begin with NAME or all.

    What they ask for is computed here, with the data sets file; or, with --topic, they are published again
    as they came. A letter of which nothing is left to do, or that was published, is removed; one that dies
    again stays, with one attempt more. The exit status is 1 where letters stay.
    """
    files = [_find(folder, name) for name in names] or [file for file, _ in Folder(folder).letters()]
    if topic:
        _publish(files, topic)
        return
    from .update import Update

    updater = Update(tuple(load_datasets(config).values())).open()
    counts: Counter[Verdict] = Counter()
    with closing(updater):
        left = iter(dict.fromkeys(files))
        while batch := list(islice(left, BATCH)):
            counts += _apply(folder, batch, updater)
    click.echo(f"{counts[Verdict.DONE]} done, {counts[Verdict.DEAD]} refused, {counts[Verdict.RETRY]} failed")
    if counts[Verdict.DEAD] or counts[Verdict.RETRY]:
        sys.exit(EXIT_FAILED)


def _apply(folder: Path, files: list[Path], updater: Updater) -> Counter[Verdict]:
    """Apply letters; gives the number of them by verdict."""
    from .update import apply_messages

    deliveries = {str(file): read_letter(file).delivery(str(file)) for file in files}
    counts: Counter[Verdict] = Counter()
    for key, outcomes in apply_messages(updater, deliveries.values()).items():
        settled = settle(outcomes, deliveries[key].last, deliveries[key].overdue)
        counts[settled.verdict] += 1
        if settled.verdict is Verdict.DONE:
            _remove(Path(key))
            continue
        click.echo(f"error: {Path(key).stem}: {_shown(settled.why)}", err=True)
        if settled.verdict is Verdict.DEAD:
            letter = dead_letter(deliveries[key], settled.causes)
            Folder(folder).put(letter)
            if Path(key).stem != letter.name:
                _remove(Path(key))
    return counts


def _publish(files: list[Path], topic: str) -> None:
    from .topic import Topic

    if not TOPIC.fullmatch(topic):
        raise ConfigError(f"topic {topic!r}: expected projects/PROJECT/topics/NAME")
    with closing(Topic(topic)) as publisher:
        for file in files:
            letter = read_letter(file)
            publisher.publish(letter.data, letter.attributes)
            _remove(file)
    click.echo(f"{len(files)} published")


def _find(folder: Path, name: str) -> Path:
    """The file of the letter whose name begins so. Raises L2FeaturesError where there is none, or several."""
    if not folder.is_dir():
        raise DeadLetterError(f"folder {folder}: there is no such folder")
    files = [file for file in sorted(folder.glob(f"*{SUFFIX}")) if file.stem.startswith(name)]
    if len(files) != 1:
        raise ConfigError(f"dead letter {name!r}: {len(files)} of folder {folder} begin so: expected one")
    return files[0]


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise L2FeaturesError(f"{file}: cannot be removed: {error.strerror}") from error


def _line(file: Path, letter: DeadLetter) -> str:
    table = _shown(letter.attributes.get("table_id", "-"))
    when = f"{letter.time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    why = ",".join(letter.reasons)
    return f"{file.stem}  {when}  {letter.attempts:3}  {table}  {why}  {len(letter.ids)} ids"


def _json_line(file: Path, letter: DeadLetter) -> str:
    content = json.loads(letter.to_json())
    del content["payload"]
    return json.dumps({"name": file.stem, "bytes": len(letter.data), **content})


def _shown(text: str) -> str:
    """A text that others wrote, without what could command a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
