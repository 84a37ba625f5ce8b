"""Where in its file a span of a document's text stands: page, line, row, slide, chapter or cell."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

PLACES = "places"
"""The key of a document's metadata under which its places are kept."""


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive items of one unit; the items of a document's sections, in order, are its whole text.

    Attributes:
        lengths: Characters of each item.
        unit: What an item is, such as `page` or `row`; empty if the section has a name and only one item.
        name: What the section is, such as `sheet Budget`; empty if the document has one section.
        first: Number of the first item.
    """

    lengths: Sequence[int]
    unit: str = ""
    name: str = ""
    first: int = 1


def place_of(metadata: Mapping[str, Any], start: int, end: int) -> str:
    """Return where a span of a document's text stands in its file, as people say it.

    Args:
        metadata: The document's, as `read_documents` made them and every bank, node or hit returns them.
        start: First character of the span.
        end: The character after its last.

    Returns:
        For example `page 3`, `lines 10-25` or `sheet Budget, rows 2-9`; empty if the metadata do not say.
    """
    sections = list(metadata.get(PLACES) or ())
    ends = list(accumulate(sum(section["lengths"]) for section in sections))
    if not ends or not 0 <= start < ends[-1]:
        return ""
    first = bisect_right(ends, start)
    last = bisect_right(ends, min(max(end, start + 1), ends[-1]) - 1)
    here = _item(sections[first], start - (ends[first - 1] if first else 0))
    there = _item(sections[last], min(max(end, start + 1), ends[-1]) - 1 - (ends[last - 1] if last else 0))
    if first != last:
        return f"{_named(sections[first], here, here)} to {_named(sections[last], there, there)}"
    return _named(sections[first], here, there)


def to_metadata(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Return sections as `place_of` finds them under `PLACES`; what is empty or 1 is left out."""
    return [dict(_entries(section)) for section in sections if sum(section.lengths)]


def _entries(section: Section) -> Iterator[tuple[str, Any]]:
    if section.name:
        yield "name", section.name
    if section.unit:
        yield "unit", section.unit
    if section.first != 1:
        yield "first", section.first
    yield "lengths", list(section.lengths)


def _item(section: Mapping[str, Any], offset: int) -> int:
    """Return the number of the item at an offset inside a section."""
    return int(section.get("first", 1)) + bisect_right(list(accumulate(section["lengths"])), offset)


def _named(section: Mapping[str, Any], here: int, there: int) -> str:
    unit = section.get("unit", "")
    items = f"{unit} {here}" if here == there else f"{unit}s {here}-{there}"
    return ", ".join(part for part in (section.get("name", ""), items if unit else "") if part)
