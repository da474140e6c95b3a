"""The table of attributes in docs/features.md: ``python -m tests.support.attribute_table`` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from l2features.core.schema import ATTRIBUTES, Attribute

DOCS = Path(__file__).resolve().parents[2] / "docs" / "features.md"
HEADER = "| attribute | stored as | unit | served in | meaning |\n|---|---|---|---|---|\n"


def attribute_table() -> str:
    """Return the schema as a Markdown table."""
    return HEADER + "".join(map(_line, ATTRIBUTES))


def _line(attribute: Attribute) -> str:
    stored = " × ".join([*map(str, attribute.shape), attribute.dtype.name])
    meaning = attribute.meaning + (f"; {attribute.condition.absent}" if attribute.condition else "")
    return f"| `{attribute.name}` | {stored} | {attribute.unit} | {attribute.served_unit} | {meaning} |\n"


def write_table(path: Path = DOCS) -> None:
    """Replace the table of a page."""
    page = re.sub(re.escape(HEADER) + r"(\|.*\n)*", lambda _: attribute_table(), path.read_text())
    path.write_text(page)


if __name__ == "__main__":
    write_table()
