"""The filter algebra: its laws, what each operator means, and that a filter is data."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.filters import AmongIds, And, Compare, Filter, Not, Operator, Or, all_of, any_of

IDS = ["one", "two", "three"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0]), st.sampled_from(["", "a", "A", "ba"])
)
LISTS = st.lists(SCALARS, max_size=3)
VALUES = st.one_of(SCALARS, LISTS, st.fixed_dictionaries({"a": st.integers(0, 1)}))
TAKES_LIST = [Operator.IN, Operator.NIN, Operator.ANY, Operator.ALL]
TAKES_TEXT = [Operator.TEXT, Operator.TEXT_ANY_CASE]
TAKES_ANYTHING = [each for each in Operator if each not in (*TAKES_LIST, *TAKES_TEXT)]
KEYS = st.sampled_from(["key", "other"])
COMPARISONS = st.one_of(
    st.builds(Compare, KEYS, st.sampled_from(TAKES_ANYTHING), VALUES),
    st.builds(Compare, KEYS, st.sampled_from(TAKES_LIST), LISTS),
    st.builds(Compare, KEYS, st.sampled_from(TAKES_TEXT), st.sampled_from(["", "a", "B"])),
)
LEAVES = st.one_of(COMPARISONS, st.builds(AmongIds, st.frozensets(st.sampled_from(IDS))))
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)
METADATA = st.dictionaries(st.sampled_from(["key", "other"]), VALUES)
DOCUMENTS = st.tuples(st.sampled_from(IDS), METADATA)


def naive(filter: Filter, doc_id: str, metadata: dict[str, Any]) -> bool:
    """Say what a filter matches, in the plainest words."""
    match filter:
        case And(parts):
            return [naive(part, doc_id, metadata) for part in parts].count(False) == 0
        case Or(parts):
            return [naive(part, doc_id, metadata) for part in parts].count(True) > 0
        case Not(part):
            return not naive(part, doc_id, metadata)
        case AmongIds(ids):
            return doc_id in list(ids)
        case Compare(key, operator, operand) if key in metadata:
            try:
                return compared(metadata[key], operator, operand)
            except TypeError:
                return False
        case Compare(_, operator, _):
            return operator in (Operator.NE, Operator.NIN, Operator.EMPTY)


def compared(value: Any, operator: Operator, operand: Any) -> bool:
    match operator:
        case Operator.EQ:
            return bool(value == operand)
        case Operator.NE:
            return bool(value != operand)
        case Operator.GT:
            return bool(operand < value)
        case Operator.GTE:
            return bool(operand <= value)
        case Operator.LT:
            return bool(value < operand)
        case Operator.LTE:
            return bool(value <= operand)
        case Operator.IN:
            return [each == value for each in operand].count(True) > 0
        case Operator.NIN:
            return [each == value for each in operand].count(True) == 0
        case Operator.CONTAINS | Operator.TEXT:
            return operand in value
        case Operator.ANY:
            return [each in value for each in operand].count(True) > 0
        case Operator.ALL:
            return value is not None and [each in value for each in operand].count(False) == 0
        case Operator.TEXT_ANY_CASE:
            return type(value) is str and operand.casefold() in value.casefold()
        case Operator.EMPTY:
            return value is None or value == "" or value == []


@given(FILTERS, DOCUMENTS)
def test_a_filter_matches_what_its_parts_say(filter: Filter, document: tuple[str, dict[str, Any]]) -> None:
    assert filter(*document) is naive(filter, *document)


@given(FILTERS, FILTERS, DOCUMENTS)
def test_de_morgan(one: Filter, two: Filter, document: tuple[str, dict[str, Any]]) -> None:
    assert Not(And((one, two)))(*document) is Or((Not(one), Not(two)))(*document)
    assert Not(Or((one, two)))(*document) is And((Not(one), Not(two)))(*document)


@given(FILTERS, DOCUMENTS)
def test_not_twice_is_not_at_all(filter: Filter, document: tuple[str, dict[str, Any]]) -> None:
    assert Not(Not(filter))(*document) is filter(*document)


@given(KEYS, SCALARS, LISTS, DOCUMENTS)
def test_an_operator_is_the_contrary_of_its_opposite(
    key: str, wanted: Any, listed: list[Any], document: tuple[str, dict[str, Any]]
) -> None:
    assert Compare(key, Operator.NE, wanted)(*document) is not Compare(key, Operator.EQ, wanted)(*document)
    assert Compare(key, Operator.NIN, listed)(*document) is not Compare(key, Operator.IN, listed)(*document)


@given(st.lists(FILTERS, max_size=3), DOCUMENTS)
def test_parts_are_joined_without_needless_wrapping(parts: list[Filter], document: tuple[str, dict[str, Any]]) -> None:
    assert all_of(parts)(*document) is And(tuple(parts))(*document)
    assert any_of(parts)(*document) is Or(tuple(parts))(*document)
    if len(parts) == 1:
        assert all_of(parts) is any_of(parts) is parts[0]


@given(FILTERS)
def test_a_filter_is_data(filter: Filter) -> None:
    assert eval(repr(filter)) == filter  # noqa: S307 - what it prints makes it again
    assert pickle.loads(pickle.dumps(filter)) == filter  # noqa: S301 - made here


@pytest.mark.parametrize(
    ("operator", "operand", "expected"),
    [
        *((operator, "a", "a list") for operator in TAKES_LIST),
        *((operator, None, "a list") for operator in TAKES_LIST),
        *((operator, 3, "a text") for operator in TAKES_TEXT),
        *((operator, ["a"], "a text") for operator in TAKES_TEXT),
    ],
)
def test_an_operand_of_the_wrong_kind_is_refused(operator: Operator, operand: Any, expected: str) -> None:
    with pytest.raises(InputError, match=f"Expected {expected} for {operator.name} on 'key', got"):
        Compare("key", operator, operand)
