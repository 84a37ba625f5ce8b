"""The filter algebra: its laws, what each operator means, and that a filter is data."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memrecall_kv.bank import MemoryBank, derived, digest
from memrecall_kv.bank.finder import Finder
from memrecall_kv.bank.metadata import storable, to_json
from memrecall_kv.errors import InputError
from memrecall_kv.filters import AmongIds, And, Compare, Filter, Not, Operator, Or, all_of, any_of
from memrecall_kv.types import Document

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


def test_the_order_of_what_is_wanted_decides_nothing() -> None:
    for operand in (["", None], [None, ""]):
        assert not Compare("key", Operator.ANY, operand)("one", {"key": ""})
        assert Compare("key", Operator.ANY, operand)("one", {"key": [None]})


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


NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from(
        [2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 0.1, 0.30000000000000004, 5e-324, 1e308]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXT = st.one_of(
    st.sampled_from(
        ["", "a", "ab", "A", "ß", "İ", "a\0", "\0", "é", "e\u0301", "日本", '"', "\\", "\n", "%", "1", "null"]
    ),
    st.text(max_size=3),
)
STORED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=2)),
    max_leaves=4,
)
ANY_KEY = st.sampled_from(["key", "other", "a.b", "a[0]", "$", '"', "\\", "", "é", "key\n", "\0", "日", "key]"])
ASKED = st.one_of(STORED, st.sampled_from([float("nan"), float("inf"), (1, 2), "\ud800", b"a"]))
STORED_FILTERS = st.recursive(
    st.one_of(
        st.builds(Compare, ANY_KEY, st.sampled_from(TAKES_ANYTHING), ASKED),
        st.builds(Compare, ANY_KEY, st.sampled_from(TAKES_LIST), st.lists(ASKED, max_size=3)),
        st.builds(Compare, ANY_KEY, st.sampled_from(TAKES_TEXT), TEXT),
        st.builds(AmongIds, st.frozensets(st.sampled_from(["0", "1", "2", "a\0", "\ud800"]))),
    ),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@pytest.fixture
def finder(tmp_path: Path) -> Iterator[Finder]:
    with MemoryBank.open(tmp_path / "bank", fingerprint={"backbone": "none"}) as bank, bank._writing():
        yield bank._catalogue


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(STORED_FILTERS, st.lists(st.dictionaries(ANY_KEY, STORED, max_size=3), min_size=1, max_size=4))
def test_a_bank_lets_through_what_the_filter_itself_does(
    finder: Finder, filter: Filter, listed: list[dict[str, Any]]
) -> None:
    with finder.transaction():
        finder._database.execute("DELETE FROM documents")
        for place, metadata in enumerate(listed):
            document = storable(Document(str(place), "", metadata))
            row = (place, document.id, "", to_json(document), place + 1)
            head = digest.of_head(place, document.id, row[3])
            finder._database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, '', ?, ?, x'')", (*row, head))
        derived.build(finder._database)
    stored = [storable(Document(str(place), "", metadata)) for place, metadata in enumerate(listed)]
    right = [place for place, each in enumerate(stored) if filter(each.id, each.metadata)]
    scope = finder.scope(filter)
    assert (scope.places.tolist(), scope.chunks) == (right, sum(place + 1 for place in right))
    assert finder.ids(filter) == [str(place) for place in right]
    assert finder.largest(1, filter) == [place + 1 for place in right[-1:]]


def test_a_filter_is_a_query_that_reads_no_metadata_in_python(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    with finder.transaction():
        for place in range(3):
            head = digest.of_head(place, str(place), '{"page": 1, "tags": ["a"]}')
            row = (place, str(place), "", '{"page": 1, "tags": ["a"]}', 1, head)
            finder._database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, '', ?, ?, x'')", row)
        derived.build(finder._database)
    read = []
    monkeypatch.setattr(finder, "parsed", lambda metadata: read.append(metadata) or {"page": 1})
    for each in (
        Compare("page", Operator.GTE, 1),
        Compare("page", Operator.IN, [1, "a", None]),
        Compare("tags", Operator.CONTAINS, "a"),
        Compare("none", Operator.EMPTY),
        And((AmongIds(frozenset("012")), Not(Compare("page", Operator.EQ, "a")))),
    ):
        assert finder.scope(each).places.tolist() == [0, 1, 2]
    assert read == []
    assert finder.scope(lambda _, metadata: metadata["page"] == "A").places.tolist() == []
    assert len(read) == 3


def test_what_a_filter_lets_through_in_a_transaction_that_fails_is_forgotten(finder: Finder) -> None:
    row = (1, "1", "", '{"page": 1}', 1, digest.of_head(1, "1", '{"page": 1}'))
    where = Compare("page", Operator.EQ, 1)
    with pytest.raises(KeyboardInterrupt), finder.transaction():
        finder._database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, '', ?, ?, x'')", row)
        derived.build(finder._database)
        assert finder.scope(where).chunks == 1
        raise KeyboardInterrupt
    assert finder.scope(where).chunks == 0


def test_a_filter_may_be_as_large_or_deep_as_it_likes(finder: Finder) -> None:
    deep: Filter = Compare("page", Operator.EQ, 1)
    for _ in range(150):
        deep = Not(deep)
    wide = Or(tuple(Compare("page", Operator.EQ, number) for number in range(5000)))
    many = AmongIds(frozenset(str(number) for number in range(100_000)))
    listed = Compare("page", Operator.IN, list(range(100_000)))
    for each in (deep, wide, many, listed, And((wide, many, deep))):
        assert finder.scope(each).chunks == 0
