"""Banks and their documents over HTTP: what is acknowledged is there, and what is not done says why."""

import asyncio

import pytest
from memrecall_kv.errors import ConfigError
from memrecall_kv.serve import ServeSettings, build_app
from memrecall_kv.types import Document
from patience import PATIENCE
from serve_samples import ANSWER, LUNCH, TRAVEL, add, ended, events, listed, served


async def test_documents_are_added_replaced_and_deleted(client):
    (bank,) = (await client.get("/v1/banks")).json()["banks"]
    assert (bank["name"], bank["stats"]["documents"]) == ("handbook", 2)
    assert (await client.get("/v1/banks/handbook")).json() == bank
    job = await add(client, "handbook", TRAVEL, {**LUNCH, "text": "Lunch is at one."})
    assert (job["report"]["documents_unchanged"], job["report"]["documents_updated"]) == (1, 1)
    (shown,) = (await client.get("/v1/banks/handbook/documents", params={"id": LUNCH["id"]})).json()["documents"]
    bare = {"heading": {"judged": "", "read": ""}}
    assert shown == {"id": LUNCH["id"], "metadata": LUNCH["metadata"], "text": "Lunch is at one.", **bare}
    gone = await client.delete("/v1/banks/handbook/documents", params={"id": [LUNCH["id"], TRAVEL["id"]]})
    assert (await ended(client, gone))["deleted"] == 2
    assert await listed(client, "handbook") == []
    shrunk = await ended(client, await client.post("/v1/banks/handbook/compact"))
    assert shrunk["freed_bytes"] > 0


async def test_the_progress_of_an_addition_is_told(client):
    taken = await client.post("/v1/banks/handbook/documents", json={"documents": [{"id": "new", "text": ANSWER * 5}]})
    assert taken.json()["state"] == "waiting"
    told = events(await client.get(taken.headers["location"] + "/events"))
    assert [name for name, _ in told][-1] == "done"
    done = [job["tokens_done"] for _, job in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][1]["tokens_total"] == len(ANSWER) * 5
    assert (await client.get(taken.headers["location"])).json() == told[-1][1]


@pytest.mark.parametrize(
    "doc_id", ["..", "../../etc/passwd", "/etc/passwd", "a/../b", "%2e%2e", "a?b#c&d", "\n", "日本", "\0"]
)
async def test_any_id_names_a_document_and_no_file(client, doc_id):
    await add(client, "handbook", {"id": doc_id, "text": "Tea is at five."})
    found = await client.get("/v1/banks/handbook/documents", params={"id": doc_id})
    assert found.json()["documents"][0]["text"] == "Tea is at five."
    assert (await ended(client, await client.delete("/v1/banks/handbook/documents", params={"id": doc_id})))["deleted"]
    assert await listed(client, "handbook") == [TRAVEL["id"], LUNCH["id"]]


async def test_a_long_list_comes_in_pages(client):
    await add(client, "handbook", *({"id": f"{number}", "text": f"Note {number}."} for number in range(5)))
    seen, after = [], 0
    while after is not None:
        page = (await client.get("/v1/banks/handbook/documents", params={"after": after, "limit": 3})).json()
        seen += [document["id"] for document in page["documents"]]
        after = page["next"]
    assert seen == [TRAVEL["id"], LUNCH["id"], *"01234"]


async def test_what_goes_wrong_in_a_job_is_told_by_it_and_hides_where_the_bank_is(client, tmp_path):
    taken = await client.delete("/v1/banks/handbook/documents", params={"id": [TRAVEL["id"], "nothing"]})
    job = await ended(client, taken)
    assert job["state"] == "failed"
    assert job["problem"]["status"] == 422
    assert "'nothing'" in job["problem"]["detail"]
    assert job["problem"]["hint"]
    assert str(tmp_path) not in str(job)
    assert await listed(client, "handbook") == [TRAVEL["id"], LUNCH["id"]]


async def test_somebody_else_who_writes_is_no_failure_of_the_server(client, memory, tmp_path):
    with memory.open_bank(tmp_path / "handbook.bank") as other:
        other.delete(LUNCH["id"])
        job = await add(client, "handbook", LUNCH)
        assert (job["state"], job["problem"]["status"]) == ("failed", 409)
    assert (await add(client, "handbook", LUNCH))["state"] == "done"


@pytest.mark.parametrize(
    "document",
    [
        {"id": "", "text": "Tea."},
        {"id": "a", "text": ""},
        {"id": "a", "text": " \n\t"},
        {"id": "a", "text": "Tea.", "colour": "red"},
        {"id": "a"},
        {"id": 1, "text": "Tea."},
        {"id": "a", "text": "Tea.", "metadata": [1]},
        "Tea.",
    ],
)
async def test_a_document_that_no_bank_can_hold_is_refused_with_all_that_came_with_it(client, document):
    refused = await client.post("/v1/banks/handbook/documents", json={"documents": [TRAVEL, document]})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["hint"]
    assert await listed(client, "handbook") == [TRAVEL["id"], LUNCH["id"]]


@pytest.mark.parametrize(
    "body",
    [
        '{"documents":[{"id":"a","text":"b","metadata":{"x":NaN}}]}',
        '{"documents":[{"id":"\\ud800","text":"b"}]}',
        '{"documents":[{"id":"a","text":"b","metadata":{"x":1e999}}]}',
        f'{{"documents":[{{"id":"a","text":"b","metadata":{{"x":{"[" * 100}{"]" * 100}}}}}]}}',
        f'{{"documents":[{{"id":"a","text":"b","metadata":{{"x":{"9" * 4200}}}}}]}}',
        "[" * 100_000,
        '{"documents":',
        "",
        "null",
        "\0",
    ],
)
async def test_what_is_no_json_or_hardly_is_refused(client, body):
    headers = {"content-type": "application/json"}
    refused = await client.post("/v1/banks/handbook/documents", content=body, headers=headers)
    assert refused.status_code in {400, 422}
    assert refused.json()["detail"]
    assert (await client.get("/v1/banks")).status_code == 200


async def test_different_texts_under_one_id_are_refused(client):
    refused = await client.post("/v1/banks/handbook/documents", json={"documents": [TRAVEL, {**TRAVEL, "text": "No."}]})
    assert refused.status_code == 422
    assert "unique" in refused.json()["detail"]


async def test_deferred_texts_are_compressed_when_a_question_comes_near(memory, tmp_path):
    question = {"bank": "b", "question": "Who approves trips?"}
    async with served(memory, tmp_path / "b.bank", defer=True) as client:
        assert (await add(client, "b", TRAVEL))["report"]["chunks_deferred"] == 1
        assert (await client.post("/v1/ask", json=question)).json()["found"]
        assert (await client.get("/v1/banks/b")).json()["stats"]["chunks_deferred"] == 0
        assert (await add(client, "b", LUNCH))["state"] == "done"
    # what an earlier server left is compressed too, and what comes now at once
    async with served(memory, tmp_path / "b.bank") as client:
        assert (await client.get("/v1/banks/b")).json()["stats"]["chunks_deferred"] == 1
        assert (await add(client, "b", {"id": "tea", "text": "Tea is at five."}))["report"]["chunks_deferred"] == 0
        assert (await client.post("/v1/ask", json=question)).json()["found"]
        assert (await client.get("/v1/banks/b")).json()["stats"]["chunks_deferred"] == 0


def test_what_may_only_be_read_cannot_be_compressed_by_questions(memory, tmp_path):
    with memory.open_bank(tmp_path / "b.bank") as bank:
        memory.ingest(bank, [Document(TRAVEL["id"], TRAVEL["text"])], defer=True)
    with pytest.raises(ConfigError, match="'b'"):
        build_app(memory, [tmp_path / "b.bank"], read_only=True)


async def test_half_a_letter_among_the_metadata_is_replaced(client):
    body = '{"documents":[{"id":"a","text":"Tea.","metadata":{"x":"\\ud800"}}]}'
    headers = {"content-type": "application/json"}
    await ended(client, await client.post("/v1/banks/handbook/documents", content=body, headers=headers))
    found = await client.get("/v1/banks/handbook/documents", params={"id": "a"})
    assert found.json()["documents"][0]["metadata"] == {"x": "\ufffd"}


async def test_a_server_that_only_reads_changes_nothing(client, memory, tmp_path):
    async with served(memory, tmp_path / "handbook.bank", read_only=True) as reader:
        for refused in (
            await reader.post("/v1/banks/handbook/documents", json={"documents": [TRAVEL]}),
            await reader.delete("/v1/banks/handbook/documents", params={"id": TRAVEL["id"]}),
            await reader.post("/v1/banks/handbook/compact"),
        ):
            assert refused.status_code == 405
            assert "--read-only" in refused.json()["hint"]
        # it sees at once what the writer does
        await add(client, "handbook", {"id": "new", "text": "Tea is at five."})
        assert "new" in await listed(reader, "handbook")


async def test_jobs_wait_their_turn_and_not_too_many_do(waiting_compressor, tmp_path):
    memory, compressor = waiting_compressor
    async with served(memory, tmp_path / "b.bank", settings=ServeSettings(max_waiting_jobs=1)) as client:
        first = await client.post("/v1/banks/b/documents", json={"documents": [TRAVEL]})
        assert await asyncio.to_thread(compressor.entered.wait, PATIENCE)
        # in the order they came: what is added first can be deleted next
        second = await client.delete("/v1/banks/b/documents", params={"id": TRAVEL["id"]})
        refused = await client.post("/v1/banks/b/documents", json={"documents": [LUNCH]})
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        assert (await client.get(first.headers["location"])).json()["state"] == "running"
        assert (await client.get(second.headers["location"])).json()["state"] == "waiting"
        assert "memrecall_jobs_inside 2.0" in (await client.get("/metrics")).text
        compressor.go.set()
        assert (await ended(client, first))["state"] == "done"
        assert (await ended(client, second))["deleted"] == 1
        assert await listed(client, "b") == []


async def test_questions_are_answered_while_a_bank_grows(client, memory, tmp_path):
    taken = await client.post(
        "/v1/banks/handbook/documents", json={"documents": [{"id": f"{n}", "text": f"Note {n}."} for n in range(50)]}
    )
    answers = [client.post("/v1/ask", json={"bank": "handbook", "question": "Who approves trips?"}) for _ in range(8)]
    assert {answer.json()["text"] for answer in await asyncio.gather(*answers)} == {ANSWER}
    assert (await ended(client, taken))["state"] == "done"
    assert len(await listed(client, "handbook")) == 52


async def test_a_shutdown_stops_what_runs_and_the_same_request_goes_on(waiting_compressor, memory, tmp_path):
    waited, compressor = waiting_compressor
    documents = [{"id": f"{number}", "text": f"Note {number}."} for number in range(40)]
    async with served(waited, tmp_path / "b.bank") as client:
        await client.post("/v1/banks/b/documents", json={"documents": documents})
        waiting = await client.post("/v1/banks/b/compact")
        assert await asyncio.to_thread(compressor.entered.wait, PATIENCE)
        jobs = client.app.state.service.jobs
        jobs.stop()
        compressor.go.set()
        assert (await ended(client, waiting))["state"] == "stopped"
        assert (await client.post("/v1/banks/b/compact")).status_code == 503
    async with served(memory, tmp_path / "b.bank") as client:
        job = await add(client, "b", *documents)
        assert (job["state"], job["report"]["chunks_reused"] > 0) == ("done", True)
        assert len(await listed(client, "b")) == 40


async def test_jobs_that_are_over_are_forgotten_in_time(memory, tmp_path):
    async with served(memory, tmp_path / "b.bank", settings=ServeSettings(max_kept_jobs=1)) as client:
        taken = [await client.post("/v1/banks/b/compact") for _ in range(3)]
        for one in taken:
            await ended(client, one)
        await ended(client, await client.post("/v1/banks/b/compact"))
        known = [(await client.get(one.headers["location"])).status_code for one in taken]
        assert known == [404, 404, 200]
