"""What the page of a bank shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.report.page import render
from memrecall_kv.types import Outline

_LISTED = 1000
"""Documents on the page: the first ones in the bank's order."""
_TITLES = ("title", "name", "file_name")
"""Keys of metadata under which a document's title may be."""
_ABSENT = 100
"""Documents whose missing blocks are listed."""
_RANGES = 40
"""Ranges of chunks that are listed of one."""


@dataclass(frozen=True, slots=True)
class Row:
    """A document in the list."""

    outline: Outline
    title: str
    deferred: str
    evicted: str


def bank_page(bank: MemoryBank, name: str | None = None) -> str:
    """Return what a bank holds as one page, which needs nothing from outside itself.

    Args:
        bank: Open; of its documents the first ones are on the page.
        name: What it is called; its directory's name if `None`.

    Raises:
        MissingDependencyError: If the extra `report` is not installed.
    """
    rows = [Row(each, _title(each), *map(_ranges, (each.deferred, each.evicted))) for each in bank.outlines(_LISTED)]
    absent = [row for row in rows if row.deferred or row.evicted]
    return render(
        "bank.html",
        script="bank.js",
        name=bank.path.name if name is None else name,
        stats=bank.stats(),
        fingerprint=bank.fingerprint,
        rows=rows,
        absent=absent[:_ABSENT],
        more_absent=max(0, len(absent) - _ABSENT),
    )


def _title(outline: Outline) -> str:
    """Return what a document's metadata call it; empty if that is its id, or nothing."""
    found = next((outline.metadata[key] for key in _TITLES if isinstance(outline.metadata.get(key), str)), "")
    return "" if found == outline.id else found


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers as people list them, such as `0-3, 7`."""
    listed = list(_runs(numbers))
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in listed[:_RANGES])
    return f"{shown} and others" if len(listed) > _RANGES else shown


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    first: int | None = None
    for number, following in pairwise([*numbers, -1]):
        first = number if first is None else first
        if following != number + 1:
            yield first, number
            first = None
