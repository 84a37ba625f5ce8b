"""LlamaIndex's metadata filters as the core's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from memrecall_kv.errors import InputError
from memrecall_kv.types import Metadata, Where

_Test = Callable[[Any, Any], bool]
"""Called with what the metadata holds and what the filter wants."""


def _within(held: Any, wanted: Any) -> bool:
    return bool(held in wanted)


_ONE: dict[FilterOperator, _Test] = {
    FilterOperator.EQ: lambda held, wanted: bool(held == wanted),
    FilterOperator.NE: lambda held, wanted: bool(held != wanted),
    FilterOperator.GT: lambda held, wanted: bool(held > wanted),
    FilterOperator.LT: lambda held, wanted: bool(held < wanted),
    FilterOperator.GTE: lambda held, wanted: bool(held >= wanted),
    FilterOperator.LTE: lambda held, wanted: bool(held <= wanted),
    FilterOperator.TEXT_MATCH: lambda held, wanted: wanted in held,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda held, wanted: wanted.lower() in held.lower(),
    FilterOperator.CONTAINS: lambda held, wanted: _within(wanted, held),
}
_LISTS: dict[FilterOperator, _Test] = {
    FilterOperator.IN: _within,
    FilterOperator.NIN: lambda held, wanted: not _within(held, wanted),
    FilterOperator.ANY: lambda held, wanted: any(item in held for item in wanted),
    FilterOperator.ALL: lambda held, wanted: all(item in held for item in wanted),
}


def to_where(filters: MetadataFilters | None) -> Where | None:
    """Return the core's filter for LlamaIndex's; `None` for no filter.

    A key that a document does not have passes `IS_EMPTY` alone, and so does a value of another kind than the
    operator compares.

    Raises:
        InputError: If a filter cannot be applied to any value.
    """
    if filters is None:
        return None
    passes = _combined(filters)
    return lambda _, metadata: passes(metadata)


def _combined(filters: MetadataFilters) -> Callable[[Metadata], bool]:
    tests = [_combined(item) if isinstance(item, MetadataFilters) else _single(item) for item in filters.filters]
    if filters.condition == FilterCondition.OR:
        return lambda metadata: any(test(metadata) for test in tests)
    if filters.condition == FilterCondition.NOT:
        return lambda metadata: not any(test(metadata) for test in tests)
    return lambda metadata: all(test(metadata) for test in tests)


def _single(item: MetadataFilter) -> Callable[[Metadata], bool]:
    if item.operator == FilterOperator.IS_EMPTY:
        return lambda metadata: metadata.get(item.key) in (None, "", [])
    _check(item)
    test = (_LISTS | _ONE)[item.operator]

    def passes(metadata: Metadata) -> bool:
        if metadata.get(item.key) is None:
            return False
        try:
            return test(metadata[item.key], item.value)
        except TypeError:  # a number asked of a text
            return False

    return passes


def _check(item: MetadataFilter) -> None:
    """Refuse what could never pass: it is a mistake, not a filter."""
    text = item.operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
    wanted = "a list" if item.operator in _LISTS else "a text" if text else "a single value"
    right = {
        "a list": isinstance(item.value, Collection) and not isinstance(item.value, str),
        "a text": isinstance(item.value, str),
        "a single value": isinstance(item.value, (str, int, float)),
    }
    if not right[wanted]:
        raise InputError(
            f"Expected {wanted} for {item.operator.name} on {item.key!r}, got {item.value!r}.",
            "Give a value of that kind, or take IS_EMPTY for what is missing.",
        )
