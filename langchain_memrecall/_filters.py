"""Metadata filters as LangChain's stores write them, a dict of values and operators, as the core's."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.types import Metadata, Where

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
}
"""Called with a document's value and the filter's."""

_LISTS = frozenset({"$in", "$nin"})
_ABSENT_MATCHES = frozenset({"$ne", "$nin"})
_HINT = 'Write it like {"team": "finance", "year": {"$gte": 2024}} or {"$or": [{"team": "a"}, {"team": "b"}]}.'


def to_where(*filters: Mapping[str, Any] | None) -> Where | None:
    """Return the core's filter for metadata that satisfies all of `filters`; `None` if there are none.

    A document without the key matches `$ne` and `$nin` only; a value that cannot be compared with the
    filter's does not match.

    Raises:
        InputError: If a filter is no mapping, holds an unknown operator, or gives one what it does not take.
    """
    tests = [_holds(condition) for condition in filters if condition is not None]
    if not tests:
        return None
    return lambda _, metadata: all(test(metadata) for test in tests)


def _holds(condition: Any) -> Callable[[Metadata], bool]:
    if not isinstance(condition, Mapping):
        raise InputError(f"Expected a filter to be a dict of metadata, got {type(condition).__name__}.", _HINT)
    tests = [_entry(key, wanted) for key, wanted in condition.items()]
    return lambda metadata: all(test(metadata) for test in tests)


def _entry(key: Any, wanted: Any) -> Callable[[Metadata], bool]:
    if key in ("$and", "$or"):
        tests = [_holds(condition) for condition in _listed(key, wanted)]
        combine = all if key == "$and" else any
        return lambda metadata: combine(test(metadata) for test in tests)
    if key == "$not":
        test = _holds(wanted)
        return lambda metadata: not test(metadata)
    if not isinstance(key, str) or key.startswith("$"):
        raise InputError(f"Expected a key of the metadata or one of $and, $or, $not, got {key!r}.", _HINT)
    return _field(key, wanted)


def _field(key: str, wanted: Any) -> Callable[[Metadata], bool]:
    if not (isinstance(wanted, Mapping) and any(str(name).startswith("$") for name in wanted)):
        return _comparison(key, "$eq", wanted)
    tests = [_comparison(key, name, value) for name, value in wanted.items()]
    return lambda metadata: all(test(metadata) for test in tests)


def _comparison(key: str, name: Any, wanted: Any) -> Callable[[Metadata], bool]:
    if name == "$not":
        test = _field(key, wanted)
        return lambda metadata: not test(metadata)
    if name not in _COMPARISONS:
        expected = ", ".join([*_COMPARISONS, "$not"])
        raise InputError(f"Expected one of the operators {expected} for {key!r}, got {name!r}.", _HINT)
    compare = _COMPARISONS[name]
    if name in _LISTS:
        wanted = _listed(name, wanted)

    def holds(metadata: Metadata) -> bool:
        if key not in metadata:
            return name in _ABSENT_MATCHES
        try:
            return bool(compare(metadata[key], wanted))
        except TypeError:  # 2024 > "unknown": nothing to compare
            return False

    return holds


def _listed(name: str, given: Any) -> list[Any]:
    # an empty $or would let nothing through and an empty $and all: neither is likely meant
    if not isinstance(given, list | tuple) or (not given and name not in _LISTS):
        raise InputError(f"Expected a list for the operator {name}, got {given!r}.", _HINT)
    return list(given)
