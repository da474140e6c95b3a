"""The table of measures in docs/neurons.md: ``python -m tests.support.summary_table`` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from l2features.neurons.neuron_summary import SUMMARY, Measure

DOCS = Path(__file__).resolve().parents[2] / "docs" / "neurons.md"
HEADER = "| measure | type | unit | graph | meaning |\n|---|---|---|---|---|\n"


def measure_table() -> str:
    """Return `SUMMARY` as a Markdown table."""
    return HEADER + "".join(map(_line, SUMMARY))


def _line(measure: Measure) -> str:
    kind = " × ".join([*map(str, measure.shape), measure.dtype.name])
    graph = "yes" if measure.needs_graph else ""
    return f"| `{measure.name}` | {kind} | {measure.unit} | {graph} | {measure.meaning} |\n"


if __name__ == "__main__":
    DOCS.write_text(re.sub(re.escape(HEADER) + r"(\|.*\n)*", lambda _: measure_table(), DOCS.read_text()))
