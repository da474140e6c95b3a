"""The docs agree with the code."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from beam_jobs import audit, ingest, materialize, precomputed, update
from l2features.messages.decoding import Reason
from tests.support.attribute_table import attribute_table
from tests.support.jobs import ROOT
from tests.support.summary_table import measure_table

DOCS = {"materialize": "versions", "precomputed": "pictures"}
"""Pages of the jobs that have another name."""


def test_the_attributes_in_the_docs() -> None:
    assert attribute_table() in (ROOT / "docs" / "features.md").read_text()


def test_the_measures_in_the_docs() -> None:
    assert measure_table() in (ROOT / "docs" / "neurons.md").read_text()


PAGES = [
    path for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "decisions") for path in folder.glob("*.md")
]


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in PAGES))
def test_links_resolve(path: str) -> None:
    file = ROOT / path
    for link in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
        assert (file.parent / link).exists(), link


def test_the_reasons_in_the_docs() -> None:
    written = (ROOT / "docs" / "operations.md").read_text()
    assert not [reason for reason in Reason if f"| `{reason}` | {reason.meaning} |" not in written]


@pytest.mark.parametrize(
    ("job", "least"), [(ingest, 8), (audit, 7), (materialize, 10), (precomputed, 10), (update, 5)]
)
def test_every_option_of_a_job_is_in_its_docs(
    job: ModuleType, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        job.parse(["--help"])
    options = set(re.findall(r"--[a-z_]+", capsys.readouterr().out))
    options -= {"--help", "--project", "--region", "--temp_location"}
    name = job.__name__.partition(".")[2]
    written = (ROOT / "docs" / f"{DOCS.get(name, name)}.md").read_text()
    assert len(options) > least
    assert not [option for option in options if option not in written]
