"""The docs agree with the code."""

from __future__ import annotations

import re

import click
import pytest
from prometheus_client.metrics import MetricWrapperBase

import mkdocs_hooks
from api import metrics
from api.config import Settings
from l2features.cli.commands import MODULES, main
from l2features.messages.decoding import Reason
from tests.support.attribute_table import attribute_table
from tests.support.jobs import ROOT
from tests.support.summary_table import measure_table


def test_the_attributes_in_the_docs() -> None:
    assert attribute_table() in (ROOT / "docs" / "features.md").read_text()


def test_the_measures_in_the_docs() -> None:
    assert measure_table() in (ROOT / "docs" / "neurons.md").read_text()


PAGES = [
    path
    for folder in (ROOT, *(ROOT / "docs" / folder for folder in ("", "decisions", "reference")))
    for path in folder.glob("*.md")
]


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in PAGES))
def test_links_resolve(path: str) -> None:
    file = ROOT / path
    for link in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
        assert (file.parent / link).exists(), link


def test_the_reasons_in_the_docs() -> None:
    written = (ROOT / "docs" / "operations.md").read_text()
    assert not [reason for reason in Reason if f"| `{reason}` | {reason.meaning} |" not in written]


def test_the_reference_has_every_job() -> None:
    jobs = {path.stem for path in (ROOT / "beam_jobs").glob("*.py") if "\nparse = " in path.read_text()}
    assert set(mkdocs_hooks.JOBS) == jobs


def test_the_reference_has_the_help_of_every_command() -> None:
    text = mkdocs_hooks.commands()
    for name in MODULES:
        command = main.get_command(click.Context(main), name)
        assert command
        assert f"## l2features {name}\n" in text
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        assert all(flag in text for option in options for flag in option.opts)


def test_the_reference_has_every_setting_with_its_limits() -> None:
    text = mkdocs_hooks.settings()
    assert text.count("\n| `") == len(Settings.model_fields)
    assert "| `L2CACHE_WORKERS` | `2` | ≥ 1, ≤ 64 | Processes. |" in text
    assert "| `GRAPH_L2CACHE_CONFIG_PATH` |" in text


def test_the_reference_has_every_metric_with_its_labels() -> None:
    lines = mkdocs_hooks.metrics().splitlines()[2:]
    declared = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    assert len(lines) == len(declared) > 10
    assert "| `l2cache_ids_total` | counter | `dataset`, `status` | Requested ids by status. |" in lines


def test_notebooks_are_committed_with_their_outputs() -> None:
    paths = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
    assert len(paths) == 5
    for path in paths:
        pages = dict(mkdocs_hooks.notebook_files(path, f"notebooks/{path.name}"))
        page = str(pages.pop(f"notebooks/{path.stem}.md"))
        assert page.startswith("# ")
        assert pages, "no plot"
        assert all(content.startswith(b"\x89PNG") for content in pages.values() if isinstance(content, bytes))
        assert path.stat().st_size < 400_000
        assert not re.search(r"/(tmp|home|work|root)/|20\d\d-\d\d-\d\d[T ][\d:]+\.\d", path.read_text())
