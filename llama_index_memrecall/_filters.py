"""LlamaIndex's metadata filters as the core's: what matches is what LlamaIndex's own vector store matches."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from memrecall_kv.errors import InputError
from memrecall_kv.types import Metadata, Where

_Test = Callable[[Any, Any], bool]
"""Called with a document's value and the filter's."""

_COMPARISONS: dict[FilterOperator, _Test] = {
    FilterOperator.EQ: operator.eq,
    FilterOperator.NE: operator.ne,
    FilterOperator.GT: operator.gt,
    FilterOperator.GTE: operator.ge,
    FilterOperator.LT: operator.lt,
    FilterOperator.LTE: operator.le,
    FilterOperator.CONTAINS: lambda value, wanted: wanted in value,
}
_LISTS: dict[FilterOperator, _Test] = {
    FilterOperator.IN: lambda value, wanted: value in wanted,
    FilterOperator.NIN: lambda value, wanted: value not in wanted,
    FilterOperator.ANY: lambda value, wanted: any(item in value for item in wanted),
    FilterOperator.ALL: lambda value, wanted: all(item in value for item in wanted),
}
_TEXTS: dict[FilterOperator, _Test] = {
    FilterOperator.TEXT_MATCH: lambda value, wanted: wanted in value,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda value, wanted: wanted.lower() in value.lower(),
}
_ABSENT_MATCHES = frozenset({FilterOperator.NE, FilterOperator.NIN})


def to_where(filters: MetadataFilters | None) -> Where | None:
    """Return the core's filter for LlamaIndex's, with every operator and condition, nested at will.

    Unlike LlamaIndex's store, a value that cannot be compared with the filter's does not match instead of raising.

    Raises:
        InputError: If a filter's value is not of the kind its operator needs.
    """
    if filters is None:
        return None
    holds = _group(filters)
    return lambda _, metadata: holds(metadata)


def _group(filters: MetadataFilters) -> Callable[[Metadata], bool]:
    tests = [_group(item) if isinstance(item, MetadataFilters) else _single(item) for item in filters.filters]
    if not tests:
        return lambda _: True
    match filters.condition:
        case FilterCondition.OR:
            return lambda metadata: any(test(metadata) for test in tests)
        case FilterCondition.NOT:
            return lambda metadata: not any(test(metadata) for test in tests)
        case _:
            return lambda metadata: all(test(metadata) for test in tests)


def _single(condition: MetadataFilter) -> Callable[[Metadata], bool]:
    key, wanted, kind = condition.key, condition.value, condition.operator
    if kind == FilterOperator.IS_EMPTY:
        return lambda metadata: metadata.get(key) in (None, "", [])
    _check(condition)
    test = {**_COMPARISONS, **_LISTS, **_TEXTS}[kind]

    def holds(metadata: Metadata) -> bool:
        value = metadata.get(key)
        if value is None:
            return kind in _ABSENT_MATCHES
        try:
            return bool(test(value, wanted))
        except (TypeError, AttributeError):  # 2024 > "unknown", 3 in 5: nothing to compare
            return False

    return holds


def _check(condition: MetadataFilter) -> None:
    kind, value = condition.operator, condition.value
    if kind in _LISTS and not isinstance(value, list):
        expected = "a list"
    elif kind in _TEXTS and not isinstance(value, str):
        expected = "a text"
    else:
        return
    raise InputError(
        f"Expected {expected} for {kind.name} on {condition.key!r}, got {value!r}.",
        f"Give {expected}, or choose another operator.",
    )
