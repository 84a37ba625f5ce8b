"""A filter of documents in JSON: `memrecall_kv.filters` as a client writes it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from memrecall_kv.filters import AmongIds, And, Compare, Filter, Not, Operator, Or

_DEEPEST = 16
_MOST = 1000


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(_Strict):
    """Compares a field of a document's metadata."""

    key: str
    operator: Operator = Operator.EQ
    operand: JsonValue = None


class Ids(_Strict):
    """Matches documents by their ids."""

    ids: list[str] = Field(max_length=_MOST)


class All(_Strict):
    """Matches what all parts match."""

    all: list[Condition] = Field(max_length=_MOST)


class AnyOf(_Strict):
    """Matches what any part matches."""

    any: list[Condition] = Field(max_length=_MOST)


class Negation(_Strict):
    """Matches what its part does not."""

    negated: Condition = Field(alias="not")


Condition: TypeAlias = Comparison | Ids | All | AnyOf | Negation


def _not_too_deep(condition: Condition) -> Condition:
    level: list[Condition] = [condition]
    for _ in range(_DEEPEST):
        level = [part for each in level for part in _parts(each)]
        if not level:
            return condition
    raise ValueError(f"conditions may be nested {_DEEPEST} deep")


JsonFilter: TypeAlias = Annotated[Condition, AfterValidator(_not_too_deep)]
"""A condition, as a field of a request."""


def to_filter(condition: Condition) -> Filter:
    """Return the filter that a condition stands for.

    Raises:
        InputError: If an operand is not what its operator needs.
    """
    if isinstance(condition, Comparison):
        return Compare(condition.key, condition.operator, condition.operand)
    if isinstance(condition, Ids):
        return AmongIds(frozenset(condition.ids))
    parts = tuple(map(to_filter, _parts(condition)))
    if isinstance(condition, Negation):
        return Not(*parts)
    return And(parts) if isinstance(condition, All) else Or(parts)


def _parts(condition: Condition) -> list[Condition]:
    if isinstance(condition, All):
        return condition.all
    if isinstance(condition, AnyOf):
        return condition.any
    return [condition.negated] if isinstance(condition, Negation) else []
