"""Banks as tools, called by the protocol's own client over a pipe and over HTTP."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from loopback import serving
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from memrecall_kv import Document
from memrecall_kv.serve.keys import KeyFile
from patience import PATIENCE
from serve_samples import ANSWER, LUNCH, TRAVEL

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

SCRIPT = Path(__file__).parent / "loopback_server.py"
QUESTION = "Who approves trips?"
MOST = 20_000
"""Letters of a result: what a calling model is asked to read at once."""


def environment():
    folders = [str(SCRIPT.parent), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


@asynccontextmanager
async def over_http(url, key=None):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        yield client


@asynccontextmanager
async def over_pipe(*arguments):
    command = StdioServerParameters(command=sys.executable, args=[str(SCRIPT), "mcp", *arguments], env=environment())
    async with Client(stdio_client(command)) as client:
        yield client


async def called(client, tool, **arguments):
    """Return what a tool returns, which is small and structured."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    (text,) = result.content
    assert len(text.text) < MOST
    assert json.loads(text.text) == result.structured_content
    return result.structured_content


async def refused(client, tool, **arguments):
    """Return what a tool says that is called in a wrong way."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return result.content[0].text


async def ended(client, handle):
    """Ask about a change until it is over."""
    while handle["state"] in ("waiting", "running"):
        handle = await called(client, "show_job", job=handle["job"])
        await asyncio.sleep(0.01)
    return handle


async def everything(client):
    """Do all there is to do."""
    assert {tool.name for tool in (await client.list_tools()).tools} == {
        "ask",
        "recall",
        "add",
        "forget",
        "list_documents",
        "show_job",
    }
    handle = await called(client, "add", documents=[TRAVEL, LUNCH])
    assert (await ended(client, handle))["state"] == "done"
    answer = await called(client, "ask", question=QUESTION)
    assert (answer["answer"], answer["found"]) == (ANSWER, True)
    citation = answer["citations"][0]
    assert (citation["document"], citation["start"], citation["text"]) == (TRAVEL["id"], 0, TRAVEL["text"])
    found = await called(client, "recall", question=QUESTION, top_k=1)
    assert [passage["document"] for passage in found["passages"]] == [TRAVEL["id"]]
    narrowed = await called(client, "recall", question=QUESTION, where={"key": "year", "operand": 2020})
    assert [passage["document"] for passage in narrowed["passages"]] == [LUNCH["id"]]
    listed = await called(client, "list_documents")
    assert ([document["id"] for document in listed["documents"]], listed["total"]) == ([TRAVEL["id"], LUNCH["id"]], 2)
    failed = await ended(client, await called(client, "forget", ids=["nobody"]))
    assert (failed["state"], "nobody" in failed["problem"]) == ("failed", True)
    assert (await ended(client, await called(client, "forget", ids=[LUNCH["id"]])))["state"] == "done"
    assert (await called(client, "list_documents"))["total"] == 1


async def test_all_tools_over_http(memory, tmp_path):
    with serving(memory, tmp_path / "handbook.bank", with_mcp=True) as url:
        async with over_http(url) as client:
            assert client.server_info.name == "memrecall-kv"
            assert "no instructions" in client.instructions
            await everything(client)


async def test_all_tools_over_a_pipe(tmp_path):
    async with over_pipe(str(tmp_path / "handbook.bank")) as client:
        await everything(client)


def test_a_pipe_carries_the_protocol_alone(tmp_path):
    said = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        },
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    lines = "".join(f"{json.dumps(message)}\n" for message in said) + "no protocol\n"
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "mcp", str(tmp_path / "b.bank")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        process.stdin.write(lines)
        process.stdin.flush()
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, _ = process.communicate(timeout=PATIENCE)
    assert [message["id"] for message in told] == [1, 2]
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert process.returncode == 0


async def test_results_are_small_and_the_rest_is_reached_by_a_cursor(memory, tmp_path):
    with memory.open_bank(tmp_path / "b.bank") as bank:
        long = {"secret": "x" * 5000}
        many = [Document(f"{number:03}", f"Note {number} of a long list of notes.", long) for number in range(120)]
        memory.ingest(bank, many)
    with serving(memory, tmp_path / "b.bank", with_mcp=True, read_only=True) as url:
        async with over_http(url) as client:
            seen, cursor = [], None
            while (page := await called(client, "list_documents", cursor=cursor))["next_cursor"]:
                seen, cursor = [*seen, *page["documents"]], page["next_cursor"]
            assert [each["id"] for each in [*seen, *page["documents"]]] == [document.id for document in many]
            seen, cursor = [], None
            while (page := await called(client, "recall", question=QUESTION, top_k=12, cursor=cursor))["next_cursor"]:
                seen, cursor = [*seen, *page["passages"]], page["next_cursor"]
            assert len({each["document"] for each in [*seen, *page["passages"]]}) == 12
            assert "cursor" in await refused(client, "recall", question=QUESTION, cursor="nonsense")
            assert {tool.name for tool in (await client.list_tools()).tools}.isdisjoint({"add", "forget"})


async def test_a_long_passage_is_cut(memory, tmp_path):
    with serving(memory, tmp_path / "b.bank", with_mcp=True) as url:
        async with over_http(url) as client:
            text = "€" * 100_000
            await ended(client, await called(client, "add", documents=[{"id": "long", "text": text}]))
            found = await called(client, "recall", question=QUESTION)
            assert all(len(passage["text"]) <= 1500 for passage in found["passages"])


async def test_mistakes_are_told_to_the_calling_model(memory, tmp_path):
    with serving(memory, tmp_path / "a.bank", tmp_path / "b.bank", with_mcp=True) as url:
        async with over_http(url) as client:
            assert "Name one of: a, b" in await refused(client, "ask", question=QUESTION)
            assert "There is no bank 'nope'" in await refused(client, "ask", question=QUESTION, bank="nope")
            assert "Expected" in await refused(client, "ask", question=" ", bank="a")
            assert "There is no job" in await refused(client, "show_job", job="nope")
            for wrong in ([{"id": "x", "text": " "}], [{"id": "x", "text": "1"}, {"id": "x", "text": "2"}], [], [{}]):
                told = await refused(client, "add", documents=wrong, bank="a")
                assert str(tmp_path) not in told
            assert await refused(client, "recall", question=QUESTION, bank="a", top_k=0)


async def test_one_tenant_never_reaches_anothers_bank(memory, tmp_path):
    keys = KeyFile(tmp_path / "keys.json")
    ann, bob = keys.add("ann", ["a"]), keys.add("bob", ["b"])
    with serving(memory, tmp_path / "a.bank", tmp_path / "b.bank", keys=keys, with_mcp=True) as url:
        async with over_http(url, ann) as client:
            handle = await called(client, "add", documents=[TRAVEL])  # to the one bank that there is for Ann
            assert (handle["bank"], (await ended(client, handle))["state"]) == ("a", "done")
        async with over_http(url, bob) as client:
            assert "There is no bank 'a'" in await refused(client, "recall", question=QUESTION, bank="a")
            assert "There is no job" in await refused(client, "show_job", job=handle["job"])
            assert (await called(client, "recall", question=QUESTION))["passages"] == []
        for key in (None, "mrk_another"):
            async with httpx2.AsyncClient() as http:
                answer = await http.post(
                    f"{url}/mcp",
                    json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                )
            assert answer.status_code == 401


async def test_without_keys_a_page_in_a_browser_does_not_come_in(memory, tmp_path):
    with serving(memory, tmp_path / "a.bank", with_mcp=True) as url:
        async with httpx2.AsyncClient() as http:
            for header in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
                accept = {"Accept": "application/json, text/event-stream", **header}
                assert (await http.post(f"{url}/mcp", json=body, headers=accept)).status_code in (400, 403, 421)


def test_off_this_machine_a_key_is_required(run, tmp_path):
    code, out, err = run("mcp", tmp_path / "a.bank", "--http", "--host", "::")
    assert (code, out) == (2, "")
    assert "Expected API keys" in err
