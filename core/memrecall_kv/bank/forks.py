"""What a forked child must let go of: its copies of an open bank's lock and database.

A lock lasts until every copy of its descriptor is closed, so that a child would keep the next writer out; and a
child that closed SQLite's files by their names could remove the log of a writer that came later.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something open that children get copies of."""

    def abandon(self) -> None:
        """Let go of the copy, in the child; what the parent has stays as it is."""


_open: weakref.WeakSet[Inherited] = weakref.WeakSet()
"""All there is in this process; Python runs one function after a fork and has no way to take it back."""


def abandon_in_children(held: Inherited) -> None:
    """Let every child that this process forks from now on call `held.abandon()`, as long as it exists."""
    _open.add(held)


def _abandon() -> None:
    for held in list(_open):
        held.abandon()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_abandon)
