"""Metadata filters as LangChain's stores write them, a dict of values and operators, as the core's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.filters import Compare, Filter, Not, Operator, all_of, any_of

_OPERATORS = {
    "$eq": Operator.EQ,
    "$ne": Operator.NE,
    "$gt": Operator.GT,
    "$gte": Operator.GTE,
    "$lt": Operator.LT,
    "$lte": Operator.LTE,
    "$in": Operator.IN,
    "$nin": Operator.NIN,
    "$contains": Operator.CONTAINS,
}
_HINT = 'Write it like {"team": "finance", "year": {"$gte": 2024}} or {"$or": [{"team": "a"}, {"team": "b"}]}.'


def to_where(*filters: Mapping[str, Any] | None) -> Filter | None:
    """Return the core's filter for metadata that satisfies all of `filters`; `None` if there are none.

    Raises:
        InputError: If a filter is no mapping, holds an unknown operator, or gives one what it does not take.
    """
    parts = [_group(condition) for condition in filters if condition is not None]
    return all_of(parts) if parts else None


def _group(condition: Any) -> Filter:
    if not isinstance(condition, Mapping):
        raise InputError(f"Expected a filter to be a dict of metadata, got {type(condition).__name__}.", _HINT)
    return all_of(_entry(key, wanted) for key, wanted in condition.items())


def _entry(key: Any, wanted: Any) -> Filter:
    if key == "$and":
        return all_of(map(_group, _several(key, wanted)))
    if key == "$or":
        return any_of(map(_group, _several(key, wanted)))
    if key == "$not":
        return Not(_group(wanted))
    if not isinstance(key, str) or key.startswith("$"):
        raise InputError(f"Expected a key of the metadata or one of $and, $or, $not, got {key!r}.", _HINT)
    return _field(key, wanted)


def _field(key: str, wanted: Any) -> Filter:
    if not (isinstance(wanted, Mapping) and any(str(name).startswith("$") for name in wanted)):
        return Compare(key, Operator.EQ, wanted)
    return all_of(_comparison(key, name, value) for name, value in wanted.items())


def _comparison(key: str, name: Any, wanted: Any) -> Filter:
    if name == "$not":
        return Not(_field(key, wanted))
    if name == "$not_contains":
        return Not(Compare(key, Operator.CONTAINS, wanted))
    if name not in _OPERATORS:
        expected = ", ".join([*_OPERATORS, "$not_contains", "$not"])
        raise InputError(f"Expected one of the operators {expected} for {key!r}, got {name!r}.", _HINT)
    return Compare(key, _OPERATORS[name], wanted)


def _several(name: str, given: Any) -> list[Any]:
    # an empty $or would let nothing through and an empty $and all: neither is likely meant
    if not isinstance(given, list | tuple) or not given:
        raise InputError(f"Expected a list for {name}, got {given!r}.", _HINT)
    return list(given)
