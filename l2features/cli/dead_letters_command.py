"""``l2features deadletters``: list, show and replay dead letters."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC
from typing import TYPE_CHECKING

import click

from ..config.datasets import read_datasets
from ..config.reach import check_pubsub
from ..core.batches import batched
from ..core.errors import EXIT_FAILED, ConfigError
from ..messages.outcomes import Verdict, settle
from ..pubsub.dead_letters import LetterBox, open_letter_box
from ..pubsub.letter import DeadLetter, dead_letter
from ..pubsub.letter_folder import ALL
from ..pubsub.subscription import SubscriptionError
from ..pubsub.topic import TOPIC
from .shared_options import config_option

if TYPE_CHECKING:
    from ..updates.updater import Updater

BATCH, BATCH_BYTES = 100, 32_000_000
"""Maximum letters of a batch, and maximum total bytes of their payloads. One payload has up to 10 MB."""
where_argument = click.argument("where", metavar="WHERE")
limit_option = click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Maximum number of letters.  [default: all of a folder, 1000 of a subscription]",
)


@click.group()
def deadletters() -> None:
    """List, show and replay dead letters: messages with a permanent error.

    WHERE is a folder, or projects/PROJECT/subscriptions/NAME, a subscription to the dead-letter topic.

    \b
    Example:
      l2features deadletters list dead
      l2features deadletters show projects/my-project/subscriptions/dead 0123abcd
      l2features deadletters replay dead --config datasets.yml
    """


@deadletters.command("list")
@where_argument
@limit_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON line per letter, with all ids but without the payload.",
)
def list_letters(where: str, limit: int | None, as_json: bool) -> None:
    """List the dead letters at WHERE: name, time, attempts, table, reasons and number of ids.

    Removes nothing. Letters of a subscription are leased while the command runs. Files or messages that are
    not letters are reported; the exit status is then 1.
    """
    count = 0
    with _opened(where, limit) as box:
        for name, letter in box.letters():
            count += 1
            if not as_json:
                click.echo(_line(name, letter))
                continue
            content = json.loads(letter.to_json())
            del content["payload"]
            click.echo(json.dumps({"name": name, "bytes": letter.payload.size, **content}))
        if not as_json:
            click.echo(f"{count} dead letters{_more(box)}", err=True)


@deadletters.command()
@where_argument
@click.argument("name")
@limit_option
@click.option("--payload", is_flag=True, help="Write only the payload.")
def show(where: str, name: str, limit: int | None, payload: bool) -> None:
    """Show the dead letter at WHERE whose name begins with NAME."""
    with _opened(where, limit) as box:
        letter: DeadLetter | None = None
        count = 0
        for _, found in box.letters([name]):
            letter, count = found, count + 1
        _expect_one(name, where, count, box)
        assert letter
        if not payload:
            _show(letter)
        elif letter.left_out:
            raise ConfigError(f"dead letter {name!r}: {_why_no_payload(letter)}")
        else:
            sys.stdout.buffer.write(letter.data)
            sys.stdout.buffer.flush()


@deadletters.command()
@where_argument
@click.argument("names", metavar="[NAME…]", nargs=-1)
@click.option(
    "--topic", metavar="TOPIC", help="Publish to projects/PROJECT/topics/NAME instead of computing."
)
@limit_option
@config_option
def replay(
    where: str, names: tuple[str, ...], topic: str | None, limit: int | None, config: str | None
) -> None:
    """Replay the dead letters at WHERE: those whose names begin with NAME…, or all.

    Computes the nodes that the letters name or, with --topic, publishes the letters again unchanged. Each
    NAME must match exactly one letter. Removes letters that are computed or published, and keeps the others.
    If a letter in a folder has a permanent error again, its number of attempts increases by one. The exit
    status is 1 if a letter is kept, if --limit may have left out letters, or if a file or message is not a
    letter.
    """
    with _opened(where, limit) as box:
        full_names = _full_names(box, names, where) if names else ALL
        failed = _publish(box, full_names, topic) if topic else _compute(box, full_names, config)
        if box.limited:
            click.echo("error: --limit was reached, so letters may remain: raise --limit", err=True)
    if failed or box.limited:
        sys.exit(EXIT_FAILED)


@contextmanager
def _opened(where: str, limit: int | None) -> Iterator[LetterBox]:
    """Open the dead letters at ``where``. At the end, if any are malformed, report them and exit with 1."""
    with closing(open_letter_box(where, limit)) as box:
        if where.startswith("projects/"):
            check_pubsub(where, SubscriptionError)
        try:
            yield box
        finally:
            for error in box.unread:
                click.echo(f"error: {_shown(error)}", err=True)
    if box.unread:
        sys.exit(EXIT_FAILED)


def _compute(box: LetterBox, names: Iterable[str], config: str | None) -> bool:
    """Compute the nodes that dead letters name. Return whether any letter failed, and so was kept."""
    from ..updates.updater import Update

    counts: Counter[Verdict] = Counter()
    datasets = read_datasets(config)
    for problem in datasets.errors:
        click.echo(f"error: {problem}; letters of this data set are kept", err=True)
    with closing(Update(tuple(datasets.usable.values())).open()) as updater:
        share = BATCH_BYTES // BATCH
        letters = box.letters(list(names))
        for batch in batched(letters, lambda named: max(len(named[1].data), share), BATCH_BYTES):
            counts += _apply(box, dict(batch), updater)
    click.echo(
        f"{counts[Verdict.DONE]} done, {counts[Verdict.DEAD]} kept for permanent errors, "
        f"{counts[Verdict.RETRY]} for other errors"
    )
    return bool(counts[Verdict.DEAD] or counts[Verdict.RETRY])


def _apply(box: LetterBox, batch: dict[str, DeadLetter], updater: Updater) -> Counter[Verdict]:
    """Compute the nodes that a batch of letters names; return the number of letters by verdict."""
    from ..updates.apply import apply_messages

    counts: Counter[Verdict] = Counter()
    for name, letter in batch.items():
        if letter.left_out:
            counts[Verdict.DEAD] += 1
            _report(name, _why_no_payload(letter))
    deliveries = {name: letter.delivery(name) for name, letter in batch.items() if not letter.left_out}
    for name, outcomes in apply_messages(updater, deliveries.values()).items():
        delivery = deliveries[name]
        settled = settle(outcomes, delivery.last, delivery.overdue)
        counts[settled.verdict] += 1
        if settled.verdict is Verdict.DONE:
            box.remove(name)
            continue
        _report(name, settled.why)
        if settled.verdict is Verdict.DEAD:
            box.refused(name, dead_letter(delivery, settled.causes))
    return counts


def _publish(box: LetterBox, names: Iterable[str], topic: str) -> bool:
    """Publish dead letters to ``topic``. Return whether any could not be published, and so was kept."""
    from ..pubsub.topic import Topic, Unpublishable

    if not TOPIC.fullmatch(topic):
        raise ConfigError(f"topic {topic!r}: expected projects/PROJECT/topics/NAME")
    published = stay = 0
    with closing(Topic(topic)) as publisher:
        for name, letter in box.letters(list(names)):
            try:
                if letter.left_out:
                    raise Unpublishable(_why_no_payload(letter))
                publisher.publish(letter.data, letter.attributes)
            except Unpublishable as error:
                stay += 1
                _report(name, str(error))
            else:
                published += 1
                box.remove(name)
    click.echo(f"{published} published")
    return bool(stay)


def _full_names(box: LetterBox, names: tuple[str, ...], where: str) -> list[str]:
    """Return the full name of each letter whose name begins with one of ``names``.

    Raises ConfigError if a name matches no letter or several.
    """
    listed = [name for name, _ in box.letters(names)]
    found = {name: [full for full in listed if full.startswith(name)] for name in names}
    for name, matches in found.items():
        _expect_one(name, where, len(matches), box)
    return list(dict.fromkeys(full for [full] in found.values()))


def _expect_one(name: str, where: str, count: int, box: LetterBox) -> None:
    if count != 1:
        raise ConfigError(
            f"dead letter {name!r}: expected one letter, but {count} letters in {where} match{_more(box)}"
        )


def _more(box: LetterBox) -> str:
    return ", and there may be more: raise --limit" if box.limited else ""


def _why_no_payload(letter: DeadLetter) -> str:
    """Return why a letter that lacks its payload cannot be replayed."""
    size, sha256 = letter.payload
    return f"payload of {size} bytes, sha256 {sha256}, was too large for the topic and is missing"


def _report(name: str, why: str) -> None:
    click.echo(f"error: {name}: {_shown(why)}", err=True)


def _show(letter: DeadLetter) -> None:
    click.echo(f"time      {letter.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC\nattempts  {letter.attempts}")
    for key, value in sorted(letter.attributes.items()):
        click.echo(f"attribute {_shown(key)} = {_shown(value)}")
    if letter.left_out:
        click.echo(f"payload   {_why_no_payload(letter)}")
    else:
        begin = f"{letter.data[:40]!r}{'…' * (len(letter.data) > 40)}"
        click.echo(f"payload   {len(letter.data)} bytes, {begin}")
    for refusal in letter.refusals:
        where = f"data set {refusal.dataset}: " if refusal.dataset else ""
        click.echo(f"reason    {_shown(refusal.reason)}: {_shown(where + refusal.detail)}")
        for node in refusal.ids:
            click.echo(f"          {node}")
    if letter.more_ids:
        click.echo(f"          and {letter.more_ids} more")


def _line(name: str, letter: DeadLetter) -> str:
    table = _shown(letter.attributes.get("table_id", "-"))
    when = f"{letter.time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    why = _shown(",".join(letter.reasons)) or "-"
    return f"{name}  {when}  {letter.attempts:3}  {table}  {why}  {len(letter.ids) + letter.more_ids} ids"


def _shown(text: str) -> str:
    """Return untrusted text with its control characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
