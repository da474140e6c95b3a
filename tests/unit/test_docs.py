"""Tests of the docs: they agree with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import markdown  # type: ignore[import-untyped]
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

import mkdocs_hooks
from api import metrics
from api.config import Settings
from l2features.cli.commands import MODULES, main
from l2features.cli.query_command import query
from l2features.cli.versions_command import versions
from l2features.core.schema import ATTRIBUTES
from l2features.messages.decoding import Reason
from l2features.neurons.neuron_summary import SUMMARY
from tests.support.jobs import ROOT

PAGES = [
    path
    for folder in (ROOT, *(ROOT / "docs" / folder for folder in ("", "decisions", "reference")))
    for path in folder.glob("*.md")
]
BEGINS = (ROOT / "docs", ROOT / "docs" / "reference")


def test_every_generated_part_has_one_place() -> None:
    parts = [part for path in PAGES for part in mkdocs_hooks.GENERATED.findall(path.read_text())]
    assert sorted(parts) == sorted(mkdocs_hooks.REFERENCES)


def test_the_reference_has_every_attribute_measure_and_reason() -> None:
    for text, entries in (
        (mkdocs_hooks.attributes(), [(one.name, one.meaning) for one in ATTRIBUTES]),
        (mkdocs_hooks.measures(), [(one.name, one.meaning) for one in SUMMARY]),
        (
            mkdocs_hooks.reasons(),
            [(one.value, f"{one.meaning} | {one.action}") for one in Reason],
        ),
    ):
        lines = text.splitlines()[2:]
        assert [line.split("`")[1] for line in lines] == [name for name, _ in entries]
        assert all(meaning in line for line, (_, meaning) in zip(lines, entries, strict=True))
    assert "| `pca` | 3 × 3 × float16 | 1 | 1 |" in mkdocs_hooks.attributes()


def test_a_table_keeps_pipes_in_its_cells() -> None:
    text = mkdocs_hooks.table("one,two", [("a|b", "`c|d`")])
    html = markdown.markdown(text, extensions=["tables"])
    assert "<td>a|b</td>\n<td><code>c|d</code></td>" in html


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in PAGES))
def test_links_resolve(path: str) -> None:
    file = ROOT / path
    for link in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
        assert (file.parent / link).exists(), link


@pytest.mark.parametrize("path", [p for p in PAGES if p.parent in BEGINS], ids=lambda path: path.name)
def test_a_page_begins_with_an_example_or_a_picture(path: Path) -> None:
    begin = "\n".join(path.read_text().splitlines()[:12])
    assert re.search(r"^(```|!\[|--8<-- )", begin, re.MULTILINE)


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
    assert "| `L2CACHE_WORKERS` | `2` | ≥ 1, ≤ 64 | Number of worker processes. |" in text
    assert "| `GRAPH_L2CACHE_CONFIG_PATH` |" in text


def test_the_reference_has_every_metric_with_its_labels() -> None:
    lines = mkdocs_hooks.metrics().splitlines()[2:]
    declared = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    assert len(lines) == len(declared) > 10
    assert "| `l2cache_ids_total` | counter | `dataset`, `status` | Requested ids by status. |" in lines


def test_the_reference_has_every_alert_with_its_action() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    lines = mkdocs_hooks.alerts().splitlines()[2:]
    assert len(lines) == len(rules) > 5
    for line, rule in zip(lines, rules, strict=True):
        assert line.startswith(f"| {rule['annotations']['summary']} | `")
        assert line.endswith(f" | {rule['annotations']['action']} |")
        assert rule["expr"].split()[-1] in line
    assert "(l2cache_update_backlog_messages) >= 1000` for 10m | add workers |" in mkdocs_hooks.alerts()


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


def test_the_commands_of_versions_exist() -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    group: Any = versions
    for name, command in group.commands.items():
        assert f"l2features versions {name} minnie" in page, name
        for parameter in command.params:
            if parameter.name == "files_only":
                assert "--files-only" in page
    used = {word for line in re.findall(r"l2features (?:query|versions).*", page) for word in line.split()}
    known = {
        option
        for command in (*group.commands.values(), query)
        for parameter in command.params
        for option in parameter.opts
    }
    assert {word for word in used if word.startswith("--")} <= known
