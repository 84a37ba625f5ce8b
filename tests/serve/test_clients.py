"""Chat models of both hosts that speak to OpenAI ask a served bank, and get the answer of OpenAI's own client."""

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from loopback import serving
from memrecall_kv import Document, MemRecall
from serve_samples import ANSWER, LUNCH, TRAVEL

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

QUESTION = "Who approves trips?"


@pytest.fixture(scope="module")
def url(memory, tmp_path_factory):
    with serving(memory, tmp_path_factory.mktemp("banks") / "handbook.bank") as url:
        with MemRecall.from_url(url, "handbook") as remote:
            remote.ingest([Document(**TRAVEL), Document(**LUNCH)])
        yield f"{url}/v1"


@pytest.fixture
def expected(url):
    """The answer and the citations that OpenAI's own client gets."""
    with openai.OpenAI(api_key="none", base_url=url, max_retries=0) as client:
        done = client.chat.completions.create(model="handbook", messages=[{"role": "user", "content": QUESTION}])
    assert done.choices[0].message.content == ANSWER
    return done.choices[0].message.content, done.model_extra["citations"]


async def test_langchains_chat_model_gets_the_same_answer(url, expected):
    text, citations = expected
    model = ChatOpenAI(model="handbook", base_url=url, api_key="none", max_retries=0)
    for message in (model.invoke(QUESTION), await model.ainvoke(QUESTION)):
        assert message.text == text
        assert message.usage_metadata["output_tokens"] > 0
    pieces = list(model.stream(QUESTION))
    assert "".join(piece.text for piece in pieces) == text
    assert len([piece for piece in pieces if piece.text]) > 1
    assert "".join([piece.text async for piece in model.astream(QUESTION)]) == text
    # of chat completions this client keeps what OpenAI has alone; of responses it keeps the annotations
    written = ChatOpenAI(model="handbook", base_url=url, api_key="none", max_retries=0, use_responses_api=True)
    whole = written.invoke(QUESTION)
    assert whole.text == text
    (block,) = [block for block in whole.content if block["type"] == "text"]
    assert [annotation["title"] for annotation in block["annotations"]] == [each["document"] for each in citations]
    streamed = None
    for piece in written.stream(QUESTION):
        streamed = piece if streamed is None else streamed + piece
    assert streamed.text == text
    marked = [mark for block in streamed.content for mark in block.get("annotations", ())]
    assert [mark["title"] for mark in marked] == [each["document"] for each in citations]


async def test_llama_indexs_chat_model_gets_the_same_answer(url, expected):
    text, citations = expected
    said = [ChatMessage(role="user", content=QUESTION)]
    with httpx.Client() as client:
        model = OpenAILike(
            model="handbook", api_base=url, api_key="none", is_chat_model=True, max_retries=0, http_client=client
        )
        for response in (model.chat(said), model.complete(QUESTION)):
            assert (getattr(response, "text", None) or response.message.content) == text
            assert response.raw.model_extra["citations"] == citations
        *_, last = pieces = list(model.stream_chat(said))
    assert (last.message.content, "".join(piece.delta or "" for piece in pieces)) == (text, text)
    (told,) = [piece.raw.model_extra["citations"] for piece in pieces if "citations" in (piece.raw.model_extra or {})]
    assert told == citations
    async with httpx.AsyncClient() as client:
        model = OpenAILike(
            model="handbook", api_base=url, api_key="none", is_chat_model=True, max_retries=0, async_http_client=client
        )
        response = await model.achat(said)
        assert (response.message.content, response.raw.model_extra["citations"]) == (text, citations)
        assert "".join([piece.delta or "" async for piece in await model.astream_chat(said)]) == text
