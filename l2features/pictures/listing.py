"""Listings of folders in HTML, which people and the viewer read."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def listing_page(title: str, entries: Mapping[str, str]) -> str:
    """Return a page that links to the entries of a folder, with descriptions."""
    named = ((escape(name), escape(what)) for name, what in entries.items())
    lines = [f'<li><a href="{name}">{name}</a> {what}' for name, what in named]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
    return "\n".join([head, f"<h1>{escape(title)}</h1>", "<ul>", *lines, "</ul>", ""])
