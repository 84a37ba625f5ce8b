"""OpenAI's own client understands what the server says."""

import httpx
import openai
import pytest
from serve_samples import ANSWER, LUNCH, TRAVEL

SAID = [{"role": "user", "content": "Who approves trips?"}]
URL = f"/v1/banks/handbook/documents?id=travel.md#char=0,{len(TRAVEL['text'])}"


@pytest.fixture
async def openai_client(client):
    through = httpx.AsyncClient(transport=httpx.ASGITransport(client.app))
    async with openai.AsyncOpenAI(
        api_key="none", base_url="http://localhost/v1", http_client=through, max_retries=0
    ) as made:
        yield made


async def test_banks_are_models(openai_client):
    assert [model.id async for model in openai_client.models.list()] == ["handbook"]
    assert (await openai_client.models.retrieve("handbook")).id == "handbook"


async def test_a_chat_is_answered_with_citations(openai_client):
    done = await openai_client.chat.completions.create(model="handbook", messages=SAID, temperature=0.0, max_tokens=9)
    (choice,) = done.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (ANSWER, "assistant", "stop")
    annotation, *_ = choice.message.annotations
    assert annotation.type == "url_citation"
    assert annotation.url_citation.url == URL
    assert (annotation.url_citation.start_index, annotation.url_citation.end_index) == (0, len(ANSWER))
    citation, *_ = done.model_extra["citations"]
    assert (citation["document"], citation["start"], citation["text"]) == (TRAVEL["id"], 0, TRAVEL["text"])
    assert citation["metadata"] == TRAVEL["metadata"]
    assert (done.model_extra["found"], done.model_extra["grounded"]) == (True, True)
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0


async def test_a_citations_url_leads_to_the_document(client, openai_client):
    done = await openai_client.chat.completions.create(model="handbook", messages=SAID)
    found = await client.get(done.choices[0].message.annotations[0].url_citation.url)
    assert found.json()["documents"][0]["text"] == TRAVEL["text"]


async def test_a_chat_streams_text_then_citations_then_the_end(openai_client):
    stream = await openai_client.chat.completions.create(
        model="handbook", messages=SAID, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    marked = [chunk for chunk in chunks if "citations" in chunk.model_extra]
    assert chunks.index(marked[0]) == len(chunks) - 3
    assert len(marked) == 1
    assert marked[0].choices[0].delta.annotations[0]["url_citation"]["url"] == URL
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_clients_own_helper_puts_a_stream_together(openai_client):
    async with openai_client.chat.completions.stream(model="handbook", messages=SAID) as stream:
        done = await stream.get_final_completion()
    assert done.choices[0].message.content == ANSWER
    assert done.choices[0].finish_reason == "stop"


async def test_what_is_not_found_has_no_citations(openai_client):
    done = await openai_client.chat.completions.create(
        model="handbook", messages=SAID, extra_body={"where": {"ids": [LUNCH["id"]]}}
    )
    assert done.choices[0].message.content == "Not found in the documents."
    assert (done.choices[0].message.annotations, done.model_extra["citations"]) == ([], [])
    assert done.model_extra["found"] is False


async def test_a_response_is_the_same_answer(openai_client):
    done = await openai_client.responses.create(model="handbook", input="Who approves trips?", temperature=0.0)
    assert (done.output_text, done.status) == (ANSWER, "completed")
    annotation, *_ = done.output[0].content[0].annotations
    assert (annotation.type, annotation.url) == ("url_citation", URL)
    assert done.model_extra["citations"][0]["document"] == TRAVEL["id"]
    assert done.usage.total_tokens > 0


async def test_a_response_streams_as_the_client_expects(openai_client):
    async with openai_client.responses.stream(model="handbook", input=SAID) as stream:
        happened = [event async for event in stream]
        done = await stream.get_final_response()
    assert done.output_text == ANSWER
    kinds = [event.type for event in happened]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    assert kinds.index("response.output_text.annotation.added") > kinds.index("response.output_text.delta")
    assert "".join(event.delta for event in happened if event.type == "response.output_text.delta") == ANSWER


async def test_parts_and_earlier_turns_are_understood(openai_client):
    parts = [{"type": "text", "text": "Who approves"}, {"type": "text", "text": "trips?"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "When is lunch?"},
        {"role": "assistant", "content": "Not found in the documents."},
        {"role": "user", "content": parts},
    ]
    done = await openai_client.chat.completions.create(model="handbook", messages=messages)
    assert done.choices[0].message.content == ANSWER


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "Hello!"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user"}]},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
    ],
    ids=str,
)
async def test_what_cannot_be_done_is_refused_and_not_left_out(openai_client, wrong):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await openai_client.chat.completions.create(**{"model": "handbook", "messages": SAID, **wrong})
    assert "Expected" in refused.value.body["message"]


async def test_an_unknown_model_is_not_there(openai_client):
    for work in (
        openai_client.chat.completions.create(model="nope", messages=SAID),
        openai_client.chat.completions.create(model="../handbook", messages=SAID, stream=True),
        openai_client.responses.create(model="nope", input="Who?"),
        openai_client.models.retrieve("nope"),
    ):
        with pytest.raises(openai.NotFoundError, match="There is no bank"):
            await work


async def test_a_response_that_would_need_an_earlier_one_is_refused(openai_client):
    with pytest.raises(openai.UnprocessableEntityError):
        await openai_client.responses.create(model="handbook", input="Who?", previous_response_id="resp_1")
