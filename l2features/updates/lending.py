"""One `Updater` in a process for all who apply the same update: stores and volumes stay open between them."""

from __future__ import annotations

import threading

from .updater import Update, Updater

_lock = threading.Lock()
_lent: dict[Update, tuple[Updater, int]] = {}


def lend(update: Update) -> Updater:
    """The process' updater. It stays open until everybody to whom it was lent has given it back."""
    with _lock:
        updater, users = _lent.get(update) or (update.open(), 0)
        _lent[update] = updater, users + 1
        return updater


def give_back(update: Update) -> None:
    """Say that an updater that was lent is not needed any more; the last one closes it."""
    with _lock:
        updater, users = _lent.pop(update)
        if users > 1:
            _lent[update] = updater, users - 1
            return
    updater.close()
