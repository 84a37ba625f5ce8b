"""A filter means the same on both sides."""

import itertools

import pytest

langchain = pytest.importorskip("langchain_memrecall._filters", reason="langchain-core is not installed")
llama_index = pytest.importorskip("llama_index_memrecall._filters", reason="llama-index-core is not installed")

STORED = [{}, *({"key": value} for value in (2024, 2024.5, "2024", "finance", "", True, ["a", 2024], {"a": 1}))]
WANTED = [2024, 2024.5, "finance", "", 1]
COMPARISONS = {"$eq": "==", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
LISTS = {"$in": "in", "$nin": "nin"}


def matches(condition, filters):
    both = langchain.to_where(condition), llama_index.to_where(filters)
    return [[where("id", metadata) for metadata in STORED] for where in both]


def single(ours, theirs, wanted):
    from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

    filters = MetadataFilters(filters=[MetadataFilter(key="key", value=wanted, operator=FilterOperator(theirs))])
    return {"key": {ours: wanted}}, filters


CASES = [
    *(single(*names, wanted) for names, wanted in itertools.product(COMPARISONS.items(), WANTED)),
    *(single(*names, wanted) for names, wanted in itertools.product(LISTS.items(), ([2024, 1], ["finance", "a"], []))),
]


@pytest.mark.parametrize(("condition", "filters"), CASES, ids=[str(condition) for condition, _ in CASES])
def test_an_operator_matches_what_it_matches_on_the_other_side(condition, filters):
    ours, theirs = matches(condition, filters)
    assert ours == theirs


@pytest.mark.parametrize(("name", "condition"), [("$and", "and"), ("$or", "or"), ("$not", "not")])
def test_conditions_nest_alike(name, condition):
    from llama_index.core.vector_stores.types import FilterCondition, MetadataFilters

    parts = [single("$gt", ">", 2023), single("$ne", "!=", "finance")]
    theirs = MetadataFilters(filters=[filters for _, filters in parts], condition=FilterCondition(condition))
    listed = [ours for ours, _ in parts]
    first, second = matches({name: {"$or": listed} if name == "$not" else listed}, theirs)
    assert first == second
    assert True in first
    assert name == "$not" or False in first
