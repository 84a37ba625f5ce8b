"""What both hosts can say becomes the same filter, however it is written."""

import itertools

import pytest
from memrecall_kv.filters import And, Compare, Not, Operator, Or

langchain = pytest.importorskip("langchain_memrecall._filters", reason="langchain-core is not installed")
llama_index = pytest.importorskip("llama_index_memrecall._filters", reason="llama-index-core is not installed")

COMPARISONS = [Operator.EQ, Operator.NE, Operator.GT, Operator.GTE, Operator.LT, Operator.LTE]
LISTS = [Operator.IN, Operator.NIN]
CASES = [
    *(Compare("key", *case) for case in itertools.product(COMPARISONS, [2024, 2024.5, "finance", "", 1])),
    *(Compare("key", *case) for case in itertools.product(LISTS, ([2024, 1], ["finance", "a"], []))),
]
PARTS = (Compare("key", Operator.GT, 2023), Compare("key", Operator.NE, "finance"))


def by_langchain(case):
    return {case.key: {f"${case.operator.name.lower()}": case.operand}}


def by_llama_index(cases, condition="and"):
    from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

    filters = [
        MetadataFilter(key=case.key, value=case.operand, operator=FilterOperator[case.operator.name]) for case in cases
    ]
    return MetadataFilters(filters=filters, condition=FilterCondition(condition))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_is_the_same_filter_on_both_sides(case):
    assert langchain.to_where(by_langchain(case)) == case
    assert llama_index.to_where(by_llama_index([case])) == case


@pytest.mark.parametrize(
    ("name", "condition", "expected"),
    [("$and", "and", And(PARTS)), ("$or", "or", Or(PARTS)), ("$not", "not", Not(Or(PARTS)))],
)
def test_conditions_nest_alike(name, condition, expected):
    listed = [by_langchain(part) for part in PARTS]
    assert langchain.to_where({name: {"$or": listed} if name == "$not" else listed}) == expected
    assert llama_index.to_where(by_llama_index(PARTS, condition)) == expected


def test_no_condition_at_all_lets_everything_through():
    assert langchain.to_where({}) == llama_index.to_where(by_llama_index([])) == And(())
    assert langchain.to_where(None) is llama_index.to_where(None) is None
