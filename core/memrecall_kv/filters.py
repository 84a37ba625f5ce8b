"""Which documents may be recalled, as data: comparisons of metadata, joined by and, or and not.

Adapters translate their host's syntax into such a tree. A tree is a `Where`; it holds no code, so that it can be
compared, printed, pickled, and asked of all documents of a bank at once (`bank/where.py`).
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from memrecall_kv.errors import InputError
from memrecall_kv.types import Metadata, Where


class Operator(StrEnum):
    """How a document's value is compared with the operand."""

    EQ = "=="
    NE = "!="
    GT = ">"
    GTE = ">="
    LT = "<"
    LTE = "<="
    IN = "in"
    NIN = "not in"
    CONTAINS = "contains"
    ANY = "contains any"
    ALL = "contains all"
    TEXT = "contains text"
    TEXT_ANY_CASE = "contains text in any case"
    EMPTY = "is empty"

    def __repr__(self) -> str:
        return f"Operator.{self.name}"


_LISTS = frozenset({Operator.IN, Operator.NIN, Operator.ANY, Operator.ALL})
_TEXTS = frozenset({Operator.TEXT, Operator.TEXT_ANY_CASE})
_ABSENT_MATCHES = frozenset({Operator.NE, Operator.NIN, Operator.EMPTY})

_TESTS: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: python.eq,
    Operator.NE: python.ne,
    Operator.GT: python.gt,
    Operator.GTE: python.ge,
    Operator.LT: python.lt,
    Operator.LTE: python.le,
    Operator.IN: lambda value, wanted: value in wanted,
    Operator.NIN: lambda value, wanted: value not in wanted,
    Operator.CONTAINS: python.contains,
    # of all: the order of what is wanted must not decide whether one that cannot be in the value is met
    Operator.ANY: lambda value, wanted: any([item in value for item in wanted]),  # noqa: C419
    Operator.ALL: lambda value, wanted: value is not None and all(item in value for item in wanted),
    Operator.TEXT: python.contains,
    Operator.TEXT_ANY_CASE: lambda value, wanted: isinstance(value, str) and wanted.lower() in value.lower(),
    Operator.EMPTY: lambda value, _: value in (None, "", []),
}
"""Called with a document's value and the operand."""


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison of one field of a document's metadata.

    A document without the field matches `NE`, `NIN` and `EMPTY` alone. A value that cannot be compared with the
    operand (2024 > "unknown") does not match.

    Attributes:
        key: The field.
        operator: How its value is compared.
        operand: With what: a list for `IN`, `NIN`, `ANY` and `ALL`, a text for `TEXT` and `TEXT_ANY_CASE`, nothing
            for `EMPTY`.

    Raises:
        InputError: If the operand is not what the operator needs.
    """

    key: str
    operator: Operator
    operand: Any = None

    def __post_init__(self) -> None:
        if self.operator in _LISTS and not isinstance(self.operand, list | tuple):
            expected = "a list"
        elif self.operator in _TEXTS and not isinstance(self.operand, str):
            expected = "a text"
        else:
            return
        raise InputError(
            f"Expected {expected} for {self.operator.name} on {self.key!r}, got {self.operand!r}.",
            f"Give {expected}, or choose another operator.",
        )

    def __call__(self, doc_id: str, metadata: Metadata) -> bool:
        """Return whether a document with this metadata matches."""
        return self.matches(metadata[self.key]) if self.key in metadata else self.matches_absent

    @property
    def matches_absent(self) -> bool:
        """Return whether a document without the field matches."""
        return self.operator in _ABSENT_MATCHES

    def matches(self, value: Any) -> bool:
        """Return whether a document with this value matches."""
        try:
            return bool(_TESTS[self.operator](value, self.operand))
        except TypeError:  # 2024 > "unknown", 3 in 5: nothing to compare
            return False


@dataclass(frozen=True, slots=True)
class AmongIds:
    """Matches the documents with these ids."""

    ids: frozenset[str]

    def __call__(self, doc_id: str, metadata: Metadata) -> bool:
        """Return whether the document is one of them."""
        return doc_id in self.ids


@dataclass(frozen=True, slots=True)
class And:
    """Matches what all parts match; without parts, everything."""

    parts: tuple[Where, ...]

    def __call__(self, doc_id: str, metadata: Metadata) -> bool:
        """Return whether all parts match."""
        return all(part(doc_id, metadata) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    """Matches what any part matches; without parts, nothing."""

    parts: tuple[Filter, ...]

    def __call__(self, doc_id: str, metadata: Metadata) -> bool:
        """Return whether any part matches."""
        return any(part(doc_id, metadata) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not:
    """Matches what its part does not."""

    part: Filter

    def __call__(self, doc_id: str, metadata: Metadata) -> bool:
        """Return whether the part does not match."""
        return not self.part(doc_id, metadata)


Filter: TypeAlias = Compare | AmongIds | And | Or | Not
"""A tree of conditions."""


def all_of(parts: Iterable[Filter]) -> Filter:
    """Return what matches where all parts do; a single part as it is."""
    listed = tuple(parts)
    return listed[0] if len(listed) == 1 else And(listed)


def any_of(parts: Iterable[Filter]) -> Filter:
    """Return what matches where any part does; a single part as it is."""
    listed = tuple(parts)
    return listed[0] if len(listed) == 1 else Or(listed)
