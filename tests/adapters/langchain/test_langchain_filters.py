"""Filters as LangChain's stores write them: dicts of values and operators."""

import pytest
from langchain_core.documents import Document
from memrecall_kv.errors import InputError
from pydantic import ValidationError

from langchain_memrecall import MemRecallRetriever, MemRecallRunnable, MemRecallStore

QUESTION = "Who approves trips?"
EVERY = {"travel", "limits", "lunch", "lift"}
FINANCE = {"team": "finance"}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, EVERY),
        (FINANCE, {"travel", "limits"}),
        ({**FINANCE, "year": 2025}, {"limits"}),
        ({"tags": ["food", "time"]}, {"lunch"}),
        ({"team": {"$eq": "finance"}}, {"travel", "limits"}),
        ({"team": {"$ne": "finance"}}, {"lunch", "lift"}),
        ({"year": {"$ne": 2024}}, {"limits", "lunch", "lift"}),
        ({"year": {"$gt": 2024}}, {"limits"}),
        ({"year": {"$gte": 2024}}, {"travel", "limits"}),
        ({"year": {"$lt": 2025}}, {"travel"}),
        ({"year": {"$lte": 2025}}, {"travel", "limits"}),
        ({"year": {"$gt": 2023, "$lt": 2025}}, {"travel"}),
        ({"year": {"$in": [2025, 2026]}}, {"limits"}),
        ({"year": {"$in": []}}, set()),
        ({"team": {"$nin": ("finance", "kitchen")}}, {"lift"}),
        ({"year": {"$nin": [2024]}}, {"limits", "lunch", "lift"}),
        ({"year": {"$not": {"$gte": 2025}}}, {"travel", "lunch", "lift"}),
        ({"team": {"$not": "finance"}}, {"lunch", "lift"}),
        ({"$and": [FINANCE, {"year": {"$gt": 2024}}]}, {"limits"}),
        ({"$or": [{"team": "kitchen"}, {"year": 2024}]}, {"lunch", "travel"}),
        ({"$not": FINANCE}, {"lunch", "lift"}),
        ({"$or": [{"team": "kitchen"}, {"$and": [FINANCE, {"$not": {"year": 2024}}]}]}, {"lunch", "limits"}),
        ({**FINANCE, "$or": [{"year": 2024}, {"team": "kitchen"}]}, {"travel"}),
        ({"team": {"$gt": 3}}, set()),
        ({"tags": {"$contains": "food"}}, {"lunch"}),
        ({"tags": {"$contains": "foo"}}, set()),
        ({"tags": "food"}, set()),
        ({"tags": {"$not_contains": "food"}}, EVERY - {"lunch"}),
        ({"team": {"$contains": "fin"}}, {"travel", "limits"}),
        ({"year": {"$contains": 2024}}, set()),
        ({"$or": [{"tags": {"$contains": "time"}}, {"year": 2024}]}, {"lunch", "travel"}),
        ({"nobody": None}, set()),
        ({"nobody": {"$gte": 0}}, set()),
    ],
)
def test_what_matches_is_recalled_and_nothing_else(memory, bank, condition, expected):
    found = MemRecallRetriever(bank=bank, memory=memory, k=9, filter=condition).invoke(QUESTION)
    assert {document.id for document in found} == expected


WRONG = [
    ("finance", "got str"),
    ([("team", "finance")], "got list"),
    ({"year": {"$regex": "20"}}, r"\$gte.*'year', got '\$regex'"),
    ({"year": {"$gte": 2020, "until": 2024}}, "got 'until'"),
    ({"$gte": 2020}, r"got '\$gte'"),
    ({3: "finance"}, "got 3"),
    ({"team": {"$in": "finance"}}, "got 'finance'"),
    ({"$or": []}, r"got \[\]"),
    ({"$and": FINANCE}, "Expected a list"),
    ({"$or": [FINANCE, "kitchen"]}, "got str"),
    ({"$not": "finance"}, "got str"),
]


@pytest.mark.parametrize(("condition", "got"), WRONG)
async def test_what_is_no_filter_is_refused_wherever_it_is_given(memory, bank, condition, got):
    retriever, ask = MemRecallRetriever(bank=bank, memory=memory), MemRecallRunnable(bank=bank, memory=memory)
    with pytest.raises(InputError, match=got):
        retriever.invoke(QUESTION, k=1, filter=condition)
    with pytest.raises(InputError, match=got):
        await retriever.ainvoke(QUESTION, k=1, filter=condition)
    with pytest.raises(InputError, match=got):
        ask.invoke({"input": QUESTION, "filter": condition})
    with pytest.raises(InputError, match=got):
        MemRecallStore(bank, memory=memory).similarity_search(QUESTION, filter=condition)
    for kind in (MemRecallRetriever, MemRecallRunnable):
        with pytest.raises(ValidationError):
            kind(bank=bank, memory=memory, filter=condition)


async def test_a_filter_of_the_call_narrows_that_of_the_object_on_every_route(memory, bank):
    recent = {"year": {"$gte": 2025}}
    retriever = MemRecallRetriever(bank=bank, memory=memory, k=9, filter=FINANCE)
    ask = MemRecallRunnable(bank=bank, memory=memory, top_k=9, filter=FINANCE)
    found = [
        retriever.invoke(QUESTION, filter=recent),
        await retriever.ainvoke(QUESTION, filter=recent),
        ask.invoke({"input": QUESTION, "filter": recent})["context"],
        (await ask.ainvoke({"input": QUESTION, "filter": recent}))["context"],
    ]
    assert [[document.id for document in documents] for documents in found] == [["limits"]] * 4


async def test_a_store_takes_a_function_of_the_document_as_langchains_in_memory_store_does(memory, bank, documents):
    store, seen = MemRecallStore(bank, memory=memory), []

    def late(document: Document) -> bool:
        seen.append(document)
        return document.metadata.get("year", 0) > 2024 or "lift" in document.page_content

    found = store.similarity_search(QUESTION, k=9, filter=late)
    assert {document.id for document in found} == {"limits", "lift"}
    assert all(document in documents for document in seen)
    assert await store.asimilarity_search(QUESTION, k=9, filter=late) == found
    retriever = store.as_retriever(search_kwargs={"k": 9, "filter": late})
    assert retriever.invoke(QUESTION) == found
