"""A served bank, used like a local one: the same values, the same errors, and the key goes nowhere else."""

import asyncio
import json
import logging
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from loopback import Saying, serving
from memrecall_kv import Document, MemRecall
from memrecall_kv.errors import (
    AccessDeniedError,
    BankError,
    BankFullError,
    BankLockedError,
    ConfigError,
    ContextOverflowError,
    InputError,
    MemRecallError,
    RemoteError,
    ServerBusyError,
    ServerUnreachableError,
)
from memrecall_kv.filters import AmongIds, And, Compare, Not, Operator, Or
from memrecall_kv.remote import RemoteMemRecall
from memrecall_kv.serve import ServeSettings
from memrecall_kv.serve.keys import KeyFile
from memrecall_kv.serve.problems import explained
from memrecall_kv.types import Done, Heading, Opened, Usage
from serve_samples import ANSWER, LUNCH, TRAVEL

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

QUESTION = "Who approves trips?"
DOCUMENTS = [Document(**TRAVEL), Document(**LUNCH, heading=Heading("Menu\n", "Menu\n"))]
KEY = "mrk_secret-of-ann"
HTML = (200, {"content-type": "text/html"}, b"<html>Sign in</html>")


@pytest.fixture(scope="module")
def url(memory, tmp_path_factory):
    with serving(memory, tmp_path_factory.mktemp("banks") / "handbook.bank") as url:
        yield url


@pytest.fixture
def remote(url):
    with MemRecall.from_url(url, bank="handbook") as remote:
        remote.ingest(DOCUMENTS)
        yield remote


@pytest.fixture
def local(memory, tmp_path):
    with memory.open_bank(tmp_path / "local.bank") as bank:
        memory.ingest(bank, DOCUMENTS)
        yield bank


def same(answer):
    """Return an answer without what differs from run to run, or with the place of the bank."""
    stages = tuple(replace(stage, seconds=0.0) for stage in answer.usage.stages)
    return replace(answer, usage=replace(answer.usage, seconds=0.0, bytes_per_source_token=0.0, stages=stages))


def says(problem, status=None, **headers):
    kind = {"content-type": "application/problem+json", **headers}
    return status or problem["status"], kind, json.dumps(problem).encode()


def refusing(status, kind="RefusedError", **headers):
    problem = {"type": f"urn:memrecall-kv:{kind}", "status": status, "detail": "Expected less.", "hint": "Wait."}
    return says(problem, **headers)


def test_answers_evidence_and_events_are_those_of_a_local_call(remote, memory, local):
    assert same(remote.ask(QUESTION)) == same(memory.ask(local, QUESTION))
    assert remote.recall(QUESTION, top_k=2) == memory.recall(local, QUESTION, top_k=2)
    *told, done = remote.stream(QUESTION)
    *expected, last = memory.stream(local, QUESTION)
    assert told == expected
    assert same(done.answer) == same(last.answer)
    *walked, done = remote.walk(QUESTION)
    assert (walked, done.answer.text, done.answer.found) == (list(memory.walk(local, QUESTION))[:-1], "", True)


async def test_the_async_methods_return_the_same(url, remote):
    async with MemRecall.from_url(url, bank="handbook") as client:
        assert same(await client.aask(QUESTION)) == same(remote.ask(QUESTION))
        assert await client.arecall(QUESTION, top_k=1) == remote.recall(QUESTION, top_k=1)
        told = [event async for event in client.astream(QUESTION)]
        assert [type(event) for event in told] == [type(event) for event in remote.stream(QUESTION)]
        both = await asyncio.gather(client.aask(QUESTION), client.aask("When is lunch?"))
        assert [answer.text for answer in both] == [ANSWER, ANSWER]


def test_one_client_serves_several_event_loops(remote):
    async def asked():
        async with remote:
            return (await remote.aask(QUESTION)).text

    assert [asyncio.run(asked()), asyncio.run(asked())] == [ANSWER, ANSWER]


def test_many_questions_are_answered_in_order_and_the_first_error_is_raised(remote):
    questions = [QUESTION, "Who sings?", QUESTION]
    assert [answer.text for answer in remote.ask_many(questions)] == [remote.ask(asked).text for asked in questions]
    assert [answer.trace.question for answer in remote.ask_many(questions, at_once=1)] == questions
    assert remote.ask_many([]) == []
    with pytest.raises(InputError, match="question"):
        remote.ask_many([QUESTION, " ", QUESTION])
    with pytest.raises(InputError, match="at_once"):
        remote.ask_many(questions, at_once=0)


@pytest.mark.parametrize(
    "where",
    [
        Compare("year", Operator.GTE, 2024),
        AmongIds(frozenset({TRAVEL["id"]})),
        And((Compare("year", Operator.IN, [2024, 2025]), Not(AmongIds(frozenset({LUNCH["id"]}))))),
        Or((Compare("year", Operator.EQ, 1), Compare("year", Operator.EQ, 2024))),
        And((Not(Compare("year", Operator.EMPTY)), Compare("year", Operator.GT, 2020))),
    ],
    ids=str,
)
def test_filters_reach_the_server(remote, where):
    assert [recall.chunk.doc_id for recall in remote.recall(QUESTION, top_k=2, where=where)] == [TRAVEL["id"]]
    assert remote.ids(where) == [TRAVEL["id"]]


def test_a_filter_that_is_code_is_refused(remote):
    with pytest.raises(InputError, match="runs no code"):
        remote.ask(QUESTION, where=lambda doc_id, metadata: True)


def test_documents_are_added_replaced_shown_and_deleted(url, memory, tmp_path):
    seen = []
    with serving(memory, tmp_path / "b.bank") as url, MemRecall.from_url(url, "b") as remote:
        first = remote.ingest(DOCUMENTS, progress=lambda *told: seen.append(told))
        assert (first.documents_added, seen[-1][1] == seen[-1][2] > 0) == (2, True)
        again = remote.ingest([DOCUMENTS[0], replace(DOCUMENTS[1], text="Lunch is at one.")])
        assert (again.documents_unchanged, again.documents_updated, again.chunks_compressed) == (1, 1, 1)
        assert remote.document(LUNCH["id"]) == replace(DOCUMENTS[1], text="Lunch is at one.")
        assert remote.stats().documents == 2
        assert remote.ids() == [TRAVEL["id"], LUNCH["id"]]
        remote.delete(LUNCH["id"])
        assert remote.ids() == [TRAVEL["id"]]
        assert remote.compact() > 0
        for unknown in (lambda: remote.delete("x"), lambda: remote.document("x")):
            with pytest.raises(InputError, match="'x'"):
                unknown()


async def test_documents_are_added_and_deleted_in_a_loop(memory, tmp_path):
    with serving(memory, tmp_path / "b.bank") as url:
        async with MemRecall.from_url(f"{url}/v1/banks/b") as remote:
            assert (await remote.aingest(DOCUMENTS)).documents_added == 2
            await remote.adelete(*(document.id for document in DOCUMENTS))
            assert remote.ids() == []
            with pytest.raises(InputError, match="'x'"):
                await remote.adelete("x")


def test_many_documents_go_in_several_requests(memory, tmp_path):
    many = [Document(f"{number:04}/{'é' * 40}", f"Note {number}.") for number in range(510)]
    with serving(memory, tmp_path / "b.bank", defer=True) as url, MemRecall.from_url(url, "b") as remote:
        assert remote.ingest(many).documents_added == 510
        assert remote.ids() == [document.id for document in many]
        remote.delete(*(document.id for document in many))
        assert remote.ids() == []


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_document_without_text_is_refused_before_anything_is_sent(remote, text):
    with pytest.raises(InputError, match="'empty'"):
        remote.ingest([Document("empty", text)])


def test_a_stream_that_is_left_stops_the_work(waiting_gate, tmp_path):
    memory, waiting = waiting_gate
    waiting.go.set()
    with serving(memory, tmp_path / "b.bank") as url, MemRecall.from_url(url, "b") as remote:
        remote.ingest(DOCUMENTS)
        events = remote.stream(QUESTION)
        next(events)
        events.close()
        assert isinstance([*remote.stream(QUESTION)][-1], Done)


def test_exactly_so_many_documents_are_found(remote):
    found = [event.recall.chunk.doc_id for event in remote.walk(QUESTION, top_n=2) if isinstance(event, Opened)]
    assert sorted(found) == sorted(document.id for document in DOCUMENTS)
    (only,) = [event.recall for event in remote.walk(QUESTION, top_n=1) if isinstance(event, Opened)]
    assert only.chunk.doc_id == TRAVEL["id"]


def test_mistakes_are_those_of_a_local_call(remote, url, request):
    nowhere = MemRecall.from_url(url, "nope")
    request.addfinalizer(nowhere.close)
    for wrong in (
        lambda: remote.ask(" "),
        lambda: remote.recall(QUESTION, top_k=0),
        lambda: nowhere.ask(QUESTION),
        lambda: remote.ask(QUESTION, where=Compare("year", Operator.EQ, {1, 2})),
        lambda: remote.ingest([Document("a", "One."), Document("a", "Two.")]),
    ):
        with pytest.raises(InputError, match=r"Expected|There is no"):
            wrong()


def test_what_only_reads_changes_nothing(memory, tmp_path):
    memory.open_bank(tmp_path / "b.bank").close()
    with serving(memory, tmp_path / "b.bank", read_only=True) as url, MemRecall.from_url(url, "b") as remote:
        with pytest.raises(BankError, match="only reads"):
            remote.ingest(DOCUMENTS)
        assert remote.ids() == []


def test_an_addition_that_fails_raises_what_a_local_one_does(memory, tmp_path):
    with (
        serving(memory, tmp_path / "b.bank") as url,
        MemRecall.from_url(url, "b") as remote,
        memory.open_bank(tmp_path / "b.bank") as held,
    ):
        memory.ingest(held, DOCUMENTS[:1])  # and goes on holding the lock
        with pytest.raises(BankLockedError) as locked:
            remote.ingest(DOCUMENTS)
    assert str(tmp_path) not in str(locked.value)


def test_too_much_at_once_is_refused(memory, tmp_path):
    settings = ServeSettings(max_request_bytes=2048)
    with (
        serving(memory, tmp_path / "b.bank", settings=settings) as url,
        MemRecall.from_url(url, "b") as remote,
        pytest.raises(InputError, match="2048 bytes"),
    ):
        remote.ingest([Document("a", "word " * 1000)])


def test_keys_open_banks_and_are_shown_nowhere(memory, tmp_path, monkeypatch, caplog):
    keys = KeyFile(tmp_path / "keys.json")
    key = keys.add("ann", ["b"])
    caplog.set_level(logging.DEBUG)
    with serving(memory, tmp_path / "b.bank", tmp_path / "c.bank", keys=keys) as url:
        with MemRecall.from_url(url, "b", api_key=f"{key}\n") as remote:
            assert remote.ids() == []
            assert pickle.loads(pickle.dumps(remote)).bank_url == remote.bank_url  # noqa: S301 - our own
            assert key.encode() not in pickle.dumps(remote)
            assert key not in f"{remote!r} {vars(remote)}"
        with (
            pytest.raises(InputError, match="There is no bank 'c'"),
            MemRecall.from_url(url, "c", api_key=key) as other,
        ):
            other.ask(QUESTION)
        for wrong in ({}, {"api_key": KEY}):
            with (
                MemRecall.from_url(url, "b", **wrong) as remote,
                pytest.raises(AccessDeniedError, match="MEMRECALL_API_KEY") as denied,
            ):
                remote.ask(QUESTION)
            assert (denied.value.status, KEY in str(denied.value)) == (401, False)
        monkeypatch.setenv("MEMRECALL_API_KEY", key)
        with MemRecall.from_url(url, "b") as remote:
            assert remote.ids() == []
    assert key not in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("key", ["two words", "new\nline", "schlüssel", 7])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError) as refused:
        RemoteMemRecall("http://127.0.0.1:1", "b", api_key=key)
    assert str(key) not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        ("handbook.bank", "b"),
        ("ftp://127.0.0.1", "b"),
        ("http://", "b"),
        ("http://127.0.0.1:port", "b"),
        ("http://ann:secret@127.0.0.1", "b"),
        ("http://127.0.0.1?key=secret", "b"),
        ("http://127.0.0.1", None),
        ("http://127.0.0.1", ""),
        ("http://127.0.0.1", "a/b"),
        ("http://127.0.0.1/v1/banks/a", "b"),
    ],
    ids=str,
)
def test_an_address_that_is_none_is_refused(given):
    with pytest.raises(InputError) as refused:
        RemoteMemRecall(*given)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("timeout", [0, -1, True, "5", float("inf"), float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout):
    with pytest.raises(ConfigError, match="timeout"):
        RemoteMemRecall("http://127.0.0.1", "b", timeout=timeout)


def test_a_bank_is_found_by_its_url_too():
    for url in ("http://h:1/v1/banks/b", "http://h:1/v1/banks/b/", "HTTP://h:1", "http://h:1/", "http://h:1/v1"):
        bank = None if "banks" in url else "b"
        assert RemoteMemRecall(url, bank).bank_url == "http://h:1/v1/banks/b"
    assert RemoteMemRecall("https://h/memory", "b c").bank_url == "https://h/memory/v1/banks/b%20c"


def test_a_busy_server_is_asked_again(url):
    with Saying.listening(refusing(503, **{"retry-after": "0"}), refusing(429, **{"retry-after": "0"}), HTML) as server:
        with pytest.raises(RemoteError, match="text/html"), MemRecall.from_url(server.url, "b") as remote:
            remote.ask(QUESTION)
        assert len(server.requests) == 3


@pytest.mark.parametrize(("wait", "requests"), [("0", 5), ("3600", 1)])
async def test_how_long_it_is_asked_is_bounded(wait, requests):
    for ask in (RemoteMemRecall.ask, RemoteMemRecall.aask):
        with Saying.listening(refusing(429, **{"retry-after": wait})) as server:
            async with MemRecall.from_url(server.url, "b") as remote:
                with pytest.raises(ServerBusyError) as busy:
                    if (answer := ask(remote, QUESTION)) is not None:
                        await answer
            assert (busy.value.status, busy.value.retry_after) == (429, float(wait))
            assert len(server.requests) == requests


def test_a_deletion_is_not_repeated_after_somebody_elses_refusal():
    busy = (503, {"content-type": "text/html", "retry-after": "0"}, b"<html>")
    with Saying.listening(busy) as server, MemRecall.from_url(server.url, "b") as remote:
        with pytest.raises(ServerBusyError):
            remote.delete("a")
        assert len(server.requests) == 1
        with pytest.raises(ServerBusyError):
            remote.ingest(DOCUMENTS)
        assert len(server.requests) == 6


async def test_the_key_does_not_follow_a_redirect():
    with Saying.listening(HTML) as other:
        moved = (302, {"location": f"{other.url}/v1/ask?token=secret"}, b"")
        with Saying.listening(moved) as server:
            async with MemRecall.from_url(server.url, "b", api_key=KEY) as remote:
                for ask in (remote.ask, remote.ids, lambda _="": remote.ingest(DOCUMENTS)):
                    with pytest.raises(RemoteError, match="redirect") as told:
                        ask(QUESTION) if ask == remote.ask else ask()
                    assert not {"secret", KEY} & set(str(told.value).split())
                with pytest.raises(RemoteError, match="redirect"):
                    await remote.aask(QUESTION)
            assert server.requests[0][2]["Authorization"] == f"Bearer {KEY}"
        assert other.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        HTML,
        (200, {"content-type": "application/json"}, b"not json"),
        (200, {"content-type": "application/json"}, b'{"recalls": 7, "text": 1}'),
        (200, {"content-type": "text/event-stream"}, b'event: token\ndata: {"text": "a"}\n\n'),
        (200, {}, b""),
        (404, {"content-type": "text/html"}, b"<html>nothing</html>"),
        (502, {"content-type": "text/html"}, b"<html>bad gateway</html>"),
        (500, {"content-type": "application/problem+json"}, b"[]"),
        (200, {"content-type": "application/json", "content-encoding": "gzip"}, b"no gzip"),
    ],
    ids=lambda answer: f"{answer[0]} {answer[2][:30]!r}",
)
async def test_what_no_server_of_ours_says_is_told_as_such(answer):
    with Saying.listening(answer) as server:
        async with MemRecall.from_url(server.url, "b") as remote:
            for call in (remote.ask, remote.recall, lambda question: list(remote.stream(question))):
                with pytest.raises(RemoteError, match="Expected") as told:
                    call(QUESTION)
                assert told.value.hint
            with pytest.raises(RemoteError, match="Expected"):
                await remote.aask(QUESTION)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (says(explained(ContextOverflowError("Expected less.", "Ask less."), {})), ContextOverflowError),
        (says(explained(BankLockedError("Expected it free.", "Wait."), {})), BankLockedError),
        (says(explained(InputError("Expected more.", "Ask."), {})), InputError),
        (says(explained(ValueError("of the server's own"), {})), RemoteError),
        (refusing(403), AccessDeniedError),
        (refusing(408), RemoteError),
        (refusing(405), BankError),
        (refusing(507, "BankFullError"), BankFullError),
        (refusing(500, "ErrorOfTheFuture"), RemoteError),
        (refusing(500, "ReasonerOutputError"), RemoteError),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else value.__name__,
)
def test_a_problem_is_the_error_it_was_on_the_server(answer, expected):
    stream = b"event: error\ndata: " + answer[2] + b"\n\n"
    for said in (answer, (200, {"content-type": "text/event-stream"}, stream)):
        with Saying.listening(said) as server, MemRecall.from_url(server.url, "b") as remote:
            with pytest.raises(MemRecallError) as told:
                list(remote.stream(QUESTION))
            assert type(told.value) is expected
            assert told.value.message
            assert told.value.hint


def test_nobody_there_is_told(monkeypatch):
    with Saying.listening(HTML) as server:
        gone = server.url
    with pytest.raises(ServerUnreachableError, match="Expected a server at http://127") as told:
        RemoteMemRecall(gone, "b", api_key=KEY).ask(QUESTION)
    assert KEY not in str(told.value)


def test_silence_is_not_waited_for_longer_than_told():
    silent = (200, {"content-type": "application/json", "content-length": "100"}, b"{")
    with (
        Saying.listening(silent) as server,
        MemRecall.from_url(server.url, "b", timeout=0.2) as remote,
        pytest.raises(ServerUnreachableError, match=r"sign|Expected a server"),
    ):
        remote.ask(QUESTION)


def test_a_connection_that_breaks_is_told_and_not_tried_again():
    cut = (202, {"content-type": "application/json", "content-length": "100"}, b'{"id": "1"')
    with Saying.listening(cut) as server, MemRecall.from_url(server.url, "b") as remote:
        with pytest.raises(ServerUnreachableError, match="may be sent again"):
            remote.ingest(DOCUMENTS)
        assert len(server.requests) == 1


def test_a_host_that_is_not_trusted_is_told():
    with Saying.listening(HTML) as server:
        with pytest.raises(ServerUnreachableError, match="trusted") as told:
            RemoteMemRecall(server.url.replace("http:", "https:"), "b").ask(QUESTION)
        assert isinstance(told.value.__cause__, httpx.ConnectError)


def test_a_change_whose_server_ended_is_told(monkeypatch):
    taken = (202, {"content-type": "application/json"}, b'{"id": "1", "state": "waiting"}')
    stopped = b'event: stopped\ndata: {"id": "1", "state": "stopped"}\n\n'
    for after in (refusing(404), (200, {"content-type": "text/event-stream"}, stopped)):
        with (
            Saying.listening(taken, after) as server,
            MemRecall.from_url(server.url, "b") as remote,
            pytest.raises(RemoteError, match="Make it again"),
        ):
            remote.ingest(DOCUMENTS)


def test_a_newer_servers_fields_are_passed_over(remote):
    answer = {
        "text": "Yes.",
        "evidence": [],
        "found": True,
        "grounded": True,
        "working_memory": {"notes": []},
        "trace": {"steps": []},
        "usage": {},
        "of_the_future": 1,
    }
    said = (200, {"content-type": "application/json"}, json.dumps(answer).encode())
    with Saying.listening(said) as server, MemRecall.from_url(server.url, "b") as client:
        found = client.ask(QUESTION)
    assert (found.text, found.usage) == ("Yes.", Usage())


def test_a_client_needs_no_torch(tmp_path):
    code = "import sys, memrecall_kv.remote; memrecall_kv.remote.RemoteMemRecall('http://h', 'b'); "
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}print('torch' in sys.modules, 'fastapi' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("place", range(3))
def test_the_programs_of_the_documentation_run(remote, url, place, capsys):
    page = (Path(__file__).parents[2] / "docs" / "remote.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    assert len(programs) == 3
    program = compile(programs[place].replace("http://localhost:8000", url), "remote.md", "exec")
    exec(program, {"__name__": "__main__"})  # noqa: S102 - it is ours
    assert ANSWER in capsys.readouterr().out
