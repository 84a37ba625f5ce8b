"""Reranking in Cohere's and Jina's form."""

import pytest
from serve_samples import ANSWER

TEXTS = ["Lunch.", ANSWER, "", "Tea.", ANSWER + " And so on." * 30, " \n"]


async def test_texts_come_back_in_order_with_scores_between_0_and_1(client):
    ranked = (await client.post("/v1/rerank", json={"query": "Who approves?", "documents": TEXTS})).json()
    results = ranked["results"]
    assert sorted(result["index"] for result in results) == list(range(len(TEXTS)))
    assert [result["index"] for result in results][:2] == [1, 4]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert [result["relevance_score"] for result in results if result["index"] in {2, 5}] == [0.0, 0.0]
    assert ranked["usage"]["total_tokens"] > 0
    assert all(result["document"] is None for result in results)


async def test_only_so_many_come_back_with_their_texts_if_wanted(client):
    wanted = {"query": "Who?", "documents": [{"text": text} for text in TEXTS], "top_n": 2, "return_documents": True}
    ranked = (await client.post("/v1/rerank", json={**wanted, "model": "any"})).json()
    assert ranked["model"] == "any"
    assert [result["document"]["text"] for result in ranked["results"]] == [TEXTS[1], TEXTS[4]]
    assert len((await client.post("/v1/rerank", json={**wanted, "top_n": 100})).json()["results"]) == len(TEXTS)


async def test_equal_texts_have_equal_scores(client):
    ranked = (await client.post("/v1/rerank", json={"query": "Who?", "documents": ["Tea.", ANSWER, "Tea."]})).json()
    scores = {result["index"]: result["relevance_score"] for result in ranked["results"]}
    assert scores[0] == scores[2] < scores[1]


@pytest.mark.parametrize("documents", [["", " "], [""]])
async def test_texts_without_a_letter_do_not_matter(client, documents):
    ranked = (await client.post("/v1/rerank", json={"query": "Who?", "documents": documents})).json()
    assert {result["relevance_score"] for result in ranked["results"]} == {0.0}


@pytest.mark.parametrize(
    "wrong", [{"documents": []}, {"documents": [1]}, {"query": ""}, {"query": " "}, {"top_n": 0}, {"documents": None}]
)
async def test_what_cannot_be_ranked_is_refused(client, wrong):
    refused = await client.post("/v1/rerank", json={"query": "Who?", "documents": ["Tea."], **wrong})
    assert refused.status_code == 422
    assert refused.json()["hint"]


async def test_nothing_of_what_was_ranked_is_kept(client, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    await client.post("/v1/rerank", json={"query": "Who?", "documents": TEXTS})
    assert list((tmp_path / "temporary").iterdir()) == []
