"""Spans of OpenTelemetry: what they tell, and that they tell no text."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from serve_samples import LUNCH, TRAVEL, add, served

EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def _provider():
    """Set an SDK up, which a process does once."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)


@pytest.fixture
def spans():
    EXPORTER.clear()
    return EXPORTER.get_finished_spans


async def test_a_request_has_the_stages_of_its_question_below_it(client, spans):
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"bank": "handbook", "question": "Who approves trips?"}
    for sent in (body, {**body, "stream": True}):
        EXPORTER.clear()
        assert (await client.post("/v1/ask", json=sent, headers={"traceparent": caller})).status_code == 200
        (request,) = [span for span in spans() if span.name == "POST /v1/ask"]
        assert request.parent.span_id == 0xB7AD6B7169203331
        assert request.attributes["http.response.status_code"] == 200
        below = {span.name: span for span in spans() if span.parent and span.parent.span_id == request.context.span_id}
        assert set(below) == {"memrecall.wait", "memrecall.recall", "memrecall.answer"}
        assert below["memrecall.answer"].attributes["memrecall.outcome"] == "found"
        assert below["memrecall.answer"].attributes["memrecall.blocks_opened"] == 2
        assert all(span.start_time <= span.end_time for span in below.values())


async def test_no_span_holds_a_text(client, spans):
    await client.post("/v1/ask", json={"bank": "handbook", "question": "Who approves trips?"})
    await client.get("/v1/banks/handbook/documents", params={"id": LUNCH["id"]})
    await client.get("/v1/nowhere-but-Dana", params={"secret": "Dana"})
    await client.post("/v1/ask", json={"bank": "Dana", "question": ["Dana"]})
    told = " ".join(f"{span.name} {dict(span.attributes)} {span.events} {span.status.description}" for span in spans())
    assert len(spans()) >= 4
    for text in ("Dana", "approves", "Who", "menu", "secret"):
        assert text not in told


async def test_what_fails_on_the_server_is_told(memory, tmp_path, spans):
    async with served(memory, tmp_path / "b.bank", raising=False) as client:
        await add(client, "b", TRAVEL)
        banks = client.app.state.service.shelf._banks
        held, banks["b"] = banks["b"], None
        assert (await client.get("/v1/banks/b")).status_code == 500
        banks["b"] = held
    (request,) = [span for span in spans() if span.name == "GET /v1/banks/{bank}"]
    assert (request.status.is_ok, request.events) == (False, ())
