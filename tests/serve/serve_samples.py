"""A server without a socket: its app, called by httpx or message by message."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
from memrecall_kv.config import BankConfig, ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig
from memrecall_kv.serve import build_app
from patience import PATIENCE

ANSWER = "Dana approves trips of more than fifty euros."
TRAVEL = {"id": "travel.md", "text": f"{ANSWER} Nobody else does.", "metadata": {"year": 2024}}
LUNCH = {"id": "lunch/menu.txt", "text": "Lunch is at noon.", "metadata": {"year": 2020}}


def config(**bank):
    return MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=128),
        gate=GateConfig(threshold=0.5),
        reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=8),
        bank=BankConfig(wait_seconds=0.0, **bank),
    )


@asynccontextmanager
async def served(memory, *banks, raising=True, **options):
    """Run an app, and give a client that calls it."""
    app = build_app(memory, banks, **options)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=raising)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            client.app = app
            yield client


async def add(client, bank, *documents, **options):
    """Add documents, wait for it, and return the job."""
    taken = await client.post(f"/v1/banks/{bank}/documents", json={"documents": documents, **options})
    assert taken.status_code == 202, taken.text
    return await ended(client, taken)


async def ended(client, taken):
    """Wait until a job is over, and return it."""
    (*_, (name, job)) = events(await client.get(taken.headers["location"] + "/events"))
    assert name == job["state"]
    return job


async def listed(client, bank):
    """Return the ids of a bank's documents."""
    found = await client.get(f"/v1/banks/{bank}/documents")
    return [document["id"] for document in found.json()["documents"]]


async def until(client, line):
    """Wait until the meters say something."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < end:
        if line in (await client.get("/metrics")).text:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(line)


def events(response):
    """Return the server-sent events of a response, each with its name and its data."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return parsed(response.text)


def parsed(text):
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            data = fields["data"]
            found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


class Line:
    """A client that says by itself how much of its body comes, and when it leaves.

    Args:
        app: Called in a task of its own.
        path: What is posted to.
        body: What is posted.
        whole: Whether that is all; the rest never comes otherwise.
    """

    def __init__(self, app, path, body, *, whole=True):
        self._sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": not whole}]
        self._gone = asyncio.Event()
        self.got, self.arrived = [], asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "scheme": "http",
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._sent:
            return self._sent.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.got.append(message)
        self.arrived.set()

    async def says(self, text, times=1):
        """Wait until it was told something so many times."""
        while self.text.count(text) < times:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), PATIENCE)

    def leave(self):
        """Hang up."""
        self._gone.set()

    @property
    def status(self):
        return self.got[0]["status"] if self.got else None

    @property
    def text(self):
        return b"".join(message.get("body", b"") for message in self.got).decode()
