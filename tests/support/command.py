"""A helper that runs ``l2features`` in this process."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from l2features.cli.commands import main


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])
