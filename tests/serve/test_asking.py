"""Questions over HTTP: the same answers as in Python, in their turn, and none for who has left."""

import asyncio
import json
import threading

import pytest
from memrecall_kv.errors import ContextOverflowError
from memrecall_kv.serve import ServeSettings
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Answer
from patience import PATIENCE
from pydantic import TypeAdapter
from serve_samples import ANSWER, LUNCH, TRAVEL, Line, add, config, events, parsed, served, until

ASK = {"bank": "handbook", "question": "Who approves trips?"}


async def test_an_answer_is_that_of_python(client, memory, tmp_path):
    got = TypeAdapter(Answer).validate_python((await client.post("/v1/ask", json=ASK)).json())
    with memory.open_bank(tmp_path / "handbook.bank", read_only=True) as bank:
        expected = memory.ask(bank, ASK["question"])
    assert (got.text, got.found, got.grounded, got.evidence) == (ANSWER, True, True, expected.evidence)
    assert (got.trace, got.working_memory) == (expected.trace, expected.working_memory)


async def test_a_stream_tells_what_happens_and_ends_with_the_answer(client):
    told = events(await client.post("/v1/ask", json={**ASK, "stream": True}))
    names = [name for name, _ in told]
    assert names[-1] == "done"
    assert {"scored", "opened", "token"} <= set(names)
    assert "".join(data["text"] for name, data in told if name == "token") == ANSWER
    answer = told[-1][1]["answer"]
    assert answer["text"] == ANSWER
    plain = (await client.post("/v1/ask", json=ASK)).json()
    for usage in (answer["usage"], plain["usage"]):
        for measured in (usage, *usage["stages"]):
            del measured["seconds"]
    assert answer == plain


async def test_recall_returns_evidence_without_an_answer(client):
    recalls = (await client.post("/v1/recall", json={**ASK, "top_k": 2})).json()["recalls"]
    assert [recall["step"] for recall in recalls] == [0, 1]
    assert recalls[0]["chunk"]["doc_id"] == TRAVEL["id"]
    assert recalls[0]["metadata"] == TRAVEL["metadata"]
    assert len((await client.post("/v1/recall", json={**ASK, "top_k": 1})).json()["recalls"]) == 1


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"key": "year", "operand": 2024}, True),
        ({"key": "year", "operator": "<", "operand": 2024}, False),
        ({"ids": [TRAVEL["id"]]}, True),
        ({"ids": []}, False),
        ({"not": {"key": "year", "operator": "in", "operand": [2024, 2025]}}, False),
        ({"all": [{"key": "year", "operator": ">=", "operand": 2000}, {"not": {"ids": [LUNCH["id"]]}}]}, True),
        ({"any": []}, False),
        ({"any": [{"key": "colour", "operator": "is empty"}]}, True),
        ({"key": "year", "operand": 10**30}, False),
        ({"key": "\0", "operand": "\0"}, False),
        ({"key": "year", "operator": ">", "operand": {"a": [None]}}, False),
    ],
)
async def test_a_filter_decides_what_is_recalled(client, where, found):
    answer = (await client.post("/v1/ask", json={**ASK, "where": where})).json()
    assert answer["found"] is found
    assert answer["text"] == (ANSWER if found else "Not found in the documents.")


def nested(depth):
    where = {"ids": ["a"]}
    for _ in range(depth):
        where = {"not": where}
    return where


@pytest.mark.parametrize(
    "wrong",
    [
        {"question": ""},
        {"question": " \n"},
        {"question": None},
        {"question": ["Who?"]},
        {"bank": None},
        {"top_k": 0},
        {"top_k": 10**9},
        {"top_k": "many"},
        {"colour": "red"},
        {"where": {}},
        {"where": {"key": "year", "operator": "like", "operand": 1}},
        {"where": {"key": "year", "operator": "in", "operand": 1}},
        {"where": {"key": "year", "operand": 1, "ids": []}},
        {"where": nested(17)},
        {"where": nested(900)},
        {"turns": [{"answer": "Dana."}]},
        {"stream": "perhaps"},
    ],
    ids=lambda wrong: json.dumps(wrong)[:40],
)
async def test_a_question_that_cannot_be_asked_says_what_would_do(client, wrong):
    for path in ("/v1/ask", "/v1/recall"):
        refused = await client.post(path, json={**ASK, **wrong})
        assert refused.status_code == 422, refused.text
        problem = refused.json()
        assert problem["status"] == 422
        assert problem["detail"].startswith("Expected")
        assert problem["hint"]
        assert len(refused.text) < 20_000


async def test_a_stream_of_a_question_that_cannot_be_asked_is_no_stream(client):
    refused = await client.post("/v1/ask", json={**ASK, "question": " ", "stream": True})
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")


async def test_a_follow_up_question_is_understood(tmp_path):
    asked = []
    gate = ScriptedGate(lambda question, notes, block: asked.append(question) or 0.9)
    memory = tiny_memory(config(), gate=gate, reasoner=ScriptedReasoner({}, lambda question, notes: ANSWER))
    turns = [{"question": "Who approves trips?", "answer": "Dana Whitfield."}]
    async with served(memory, tmp_path / "handbook.bank") as client:
        await add(client, "handbook", TRAVEL)
        await client.post("/v1/ask", json={**ASK, "question": "What else does she decide?", "turns": turns})
    assert set(asked) == {"What else does Dana Whitfield decide?"}


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_some_questions_at_once_and_not_too_many_wait(waiting_gate, tmp_path, at_once):
    memory, gate = waiting_gate
    settings = ServeSettings(max_questions_at_once=at_once, max_waiting_questions=3 - at_once)
    async with served(memory, tmp_path / "handbook.bank", settings=settings) as client:
        await add(client, "handbook", TRAVEL)
        asked = [asyncio.create_task(client.post("/v1/ask", json=ASK)) for _ in range(3)]
        assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
        await until(client, "memrecall_questions_inside 3.0")
        await until(client, f'memrecall_stage_seconds_count{{stage="wait"}} {at_once}.0')
        for path in ("/v1/ask", "/v1/recall"):
            refused = await client.post(path, json=ASK)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
        reranked = await client.post("/v1/rerank", json={"query": "Who?", "documents": ["Dana"]})
        assert reranked.status_code == 503
        assert len(gate.judged) == 1
        gate.go.set()
        assert {answer.json()["text"] for answer in await asyncio.gather(*asked)} == {ANSWER}
        assert (await client.post("/v1/ask", json=ASK)).status_code == 200


def test_a_cpu_answers_one_question_at_a_time_unless_it_is_told_otherwise():
    assert ServeSettings().questions_at_once("cpu") == 1
    assert ServeSettings().questions_at_once("cuda") == 8
    assert ServeSettings(max_questions_at_once=3).questions_at_once("cpu") == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_while_waiting_is_never_answered(waiting_gate, tmp_path, stream):
    memory, gate = waiting_gate
    settings = ServeSettings(max_questions_at_once=1)
    async with served(memory, tmp_path / "handbook.bank", settings=settings) as client:
        await add(client, "handbook", TRAVEL)
        first = asyncio.create_task(client.post("/v1/ask", json=ASK))
        assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
        second = Line(client.app, "/v1/ask", {**ASK, "question": "And who left?", "stream": stream})
        await until(client, "memrecall_questions_inside 2.0")
        second.leave()
        await second.task
        assert second.status in {None, 499}
        assert "memrecall_questions_inside 1.0" in (await client.get("/metrics")).text
        gate.go.set()
        assert (await first).json()["text"] == ANSWER
        assert "And who left?" not in gate.judged


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/ask", "/v1/chat/completions", "/v1/responses"])
async def test_who_leaves_while_being_answered_stops_the_work(waiting_gate, tmp_path, path, stream):
    memory, gate = waiting_gate
    said = [{"role": "user", "content": "Who?"}]
    body = {
        "/v1/ask": ASK,
        "/v1/chat/completions": {"model": "handbook", "messages": said},
        "/v1/responses": {"model": "handbook", "input": said},
    }[path]
    async with served(memory, tmp_path / "handbook.bank") as client:
        await add(client, "handbook", TRAVEL)
        line = Line(client.app, path, {**body, "stream": stream})
        assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
        line.leave()
        await line.task
        gate.go.set()
        await until(client, 'memrecall_questions_total{outcome="cancelled"} 1.0')


async def test_who_leaves_in_the_middle_of_a_stream_stops_the_work(tmp_path):
    pieces = []

    class Endless(ScriptedReasoner):
        def answer(self, *given):
            while True:
                pieces.append("Dana ")
                yield pieces[-1]

    gate = ScriptedGate(lambda question, notes, block: 0.9)
    memory = tiny_memory(config(), gate=gate, reasoner=Endless({}, lambda *_: ""))
    async with served(memory, tmp_path / "handbook.bank") as client:
        await add(client, "handbook", TRAVEL)
        line = Line(client.app, "/v1/ask", {**ASK, "stream": True})
        await line.says("event: token")
        line.leave()
        await line.task
        await until(client, "memrecall_questions_inside 0.0")
        written = len(pieces)
        await asyncio.sleep(0.05)
        assert len(pieces) == written
        assert {name for name, _ in parsed(line.text.rpartition("\n\n")[0])} >= {"token"}


async def test_a_reader_who_does_not_read_holds_nobody_up(client):
    blocked = asyncio.Event()

    class Stuck(Line):
        async def _send(self, message):
            await super()._send(message)
            await blocked.wait()

    stuck = Stuck(client.app, "/v1/ask", {**ASK, "stream": True})
    await asyncio.wait_for(stuck.arrived.wait(), PATIENCE)
    answers = await asyncio.gather(*(client.post("/v1/ask", json=ASK) for _ in range(5)))
    assert {answer.json()["text"] for answer in answers} == {ANSWER}
    blocked.set()
    await stuck.task
    assert parsed(stuck.text)[-1][1]["answer"]["text"] == ANSWER


async def test_a_stream_that_has_nothing_to_say_shows_that_it_lives(tmp_path):
    go = threading.Event()

    class Slow(ScriptedReasoner):
        def answer(self, *given):
            go.wait(PATIENCE)
            yield ANSWER

    memory = tiny_memory(config(), gate=ScriptedGate(lambda *_: 0.9), reasoner=Slow({}, lambda *_: ""))
    async with served(memory, tmp_path / "handbook.bank", settings=ServeSettings(ping_seconds=0.01)) as client:
        await add(client, "handbook", TRAVEL)
        line = Line(
            client.app,
            "/v1/chat/completions",
            {"model": "handbook", "messages": [{"role": "user", "content": "Who?"}], "stream": True},
        )
        await line.says(": still at work", times=3)
        go.set()
        await line.task
        assert parsed(line.text)[-1] == (None, "[DONE]")


async def test_what_fails_in_the_middle_of_a_stream_is_told_in_it(tmp_path):
    class Failing(ScriptedReasoner):
        def answer(self, *given):
            yield f"{ANSWER} And then "
            raise ContextOverflowError("Expected less.", "Ask less.")

    memory = tiny_memory(config(), gate=ScriptedGate(lambda *_: 0.9), reasoner=Failing({}, lambda *_: ""))
    async with served(memory, tmp_path / "handbook.bank") as client:
        await add(client, "handbook", TRAVEL)
        told = events(await client.post("/v1/ask", json={**ASK, "stream": True}))
        assert told[-1][0] == "error"
        assert (told[-1][1]["status"], told[-1][1]["hint"]) == (422, "Ask less.")
        whole = await client.post("/v1/ask", json=ASK)
        assert whole.json() == told[-1][1]
        said = {"model": "handbook", "messages": [{"role": "user", "content": "Who?"}], "stream": True}
        chunks = events(await client.post("/v1/chat/completions", json=said))
        assert chunks[-1][1]["error"]["message"] == "Expected less. Ask less."
