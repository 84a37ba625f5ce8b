import pytest
from llama_index.core.vector_stores import utils
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from memrecall_kv.errors import InputError

from llama_index_memrecall import MemRecallQueryEngine, MemRecallRetriever

QUESTION = "Who approves trips?"
EVERY = {"travel", "limits", "lunch", "lift"}


def filters(*items, condition=FilterCondition.AND):
    return MetadataFilters(
        filters=[item if isinstance(item, MetadataFilters) else MetadataFilter(**item) for item in items],
        condition=condition,
    )


def one(key, operator, value=None):
    return {"key": key, "operator": FilterOperator[operator], "value": value}


def recalled(memory, documents, given):
    retriever = MemRecallRetriever.from_documents(documents, memory=memory, top_k=9, filters=given)
    found = {source.node.ref_doc_id for source in retriever.retrieve(QUESTION)}
    retriever.close()
    return found


FINANCE = one("team", "EQ", "finance")
LATE = one("year", "IN", [2025, 2026])

FLAT = [
    filters(FINANCE),
    filters(LATE),
    filters(FINANCE, one("year", "EQ", 2024)),
    filters(one("team", "NE", "finance")),
    filters(one("year", "NE", 2024)),
    filters(one("year", "GT", 2024)),
    filters(one("year", "GTE", 2024)),
    filters(one("year", "LT", 2025)),
    filters(one("year", "LTE", 2025)),
    filters(one("team", "NIN", ["finance", "kitchen"])),
    filters(one("tags", "CONTAINS", "food")),
    filters(one("tags", "ANY", ["food", "drink"])),
    filters(one("tags", "ALL", ["food", "time"])),
    filters(one("tags", "ALL", ["food", "drink"])),
    filters(one("team", "TEXT_MATCH", "fin")),
    filters(one("team", "TEXT_MATCH_INSENSITIVE", "KITCH")),
    filters(one("year", "IS_EMPTY")),
    filters(one("nobody", "EQ", None)),
    filters(one("team", "EQ", None)),
    filters(one("team", "NE", None)),
    filters(FINANCE, one("team", "EQ", "kitchen"), condition=FilterCondition.OR),
    filters(FINANCE, one("team", "EQ", "kitchen"), condition=FilterCondition.NOT),
    filters(),
]


@pytest.mark.skipif(not hasattr(utils, "build_metadata_filter_fn"), reason="older stores match otherwise")
@pytest.mark.parametrize("given", FLAT, ids=range(len(FLAT)))
def test_what_matches_is_what_the_hosts_own_store_matches(memory, documents, given):
    by_id = {document.id_: document.metadata for document in documents}
    theirs = utils.build_metadata_filter_fn(by_id.__getitem__, given)
    assert recalled(memory, documents, given) == {doc_id for doc_id in by_id if theirs(doc_id)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (filters(FINANCE, filters(LATE)), {"limits"}),
        (filters(FINANCE, filters(LATE, condition=FilterCondition.NOT)), {"travel"}),
        (filters(LATE, filters(one("tags", "ANY", ["food"])), condition=FilterCondition.OR), {"limits", "lunch"}),
        (filters(filters(FINANCE), filters(LATE), condition=FilterCondition.NOT), {"lunch", "lift"}),
        (filters(filters()), EVERY),
        (filters(one("team", "GT", 3)), set()),
        (filters(one("year", "CONTAINS", 2)), set()),
        (filters(one("team", "EQ", "nobody")), set()),
    ],
)
def test_filters_nest_and_what_cannot_be_compared_does_not_match(memory, documents, given, expected):
    assert recalled(memory, documents, given) == expected


def test_an_answer_sees_only_what_a_filter_lets_through(memory, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=9, filters=filters(FINANCE))
    assert {source.node.ref_doc_id for source in engine.query(QUESTION).source_nodes} == {"travel", "limits"}
    engine.close()


def test_a_filter_that_matches_nothing_gives_the_not_found_answer(memory, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, filters=filters(one("team", "EQ", "x")))
    response = engine.query(QUESTION)
    assert (response.response, response.source_nodes) == (memory.config.reasoner.not_found, [])
    engine.close()


@pytest.mark.parametrize(
    "given",
    [
        filters(one("team", "IN", "finance")),
        filters(one("team", "TEXT_MATCH", 3)),
        filters(FINANCE, filters(one("tags", "ALL", "food"), condition=FilterCondition.NOT)),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_when_the_engine_is_made(tmp_path, given):
    with pytest.raises(InputError):
        MemRecallQueryEngine.from_bank(tmp_path, filters=given)
