"""Chat over recalled memory, and the backbone as an LLM of the host."""

import asyncio
import threading

import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from memrecall_kv.errors import InputError
from memrecall_kv.testing import tiny_backbone, tiny_memory
from patience import PATIENCE
from pydantic import ValidationError

from llama_index_memrecall import BackboneLLM, MemRecallIndex

QUESTION = "Who approves trips?"
RECALLING = [ChatMode.BEST, ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT, ChatMode.CONDENSE_QUESTION]


@pytest.fixture(scope="module")
def roomy():
    """A memory whose backbone has room for a chat in bytes."""
    return tiny_memory(backbone=tiny_backbone(window=16384))


@pytest.fixture
def index(roomy, documents):
    index = MemRecallIndex.from_documents(documents, memory=roomy)
    yield index
    index.close()


@pytest.fixture
def local(roomy):
    return BackboneLLM(memory=roomy, max_tokens=8)


@pytest.fixture
def history():
    """A chat memory without a database: LlamaIndex 0.14.25 never closes the connection of its default one."""
    return ChatMemoryBuffer.from_defaults(token_limit=8000)


@pytest.mark.parametrize("mode", RECALLING)
async def test_a_chat_recalls_and_remembers_and_the_hosts_default_models_are_never_asked_for(index, llm, history, mode):
    chat = index.as_chat_engine(mode, llm=llm, similarity_top_k=2, memory=history)
    first = chat.chat(QUESTION)
    assert first.response == "Dana says yes."
    assert len(first.source_nodes) == 2
    second = await chat.achat("And who sets the limit?")
    assert len(second.source_nodes) == 2
    assert any(QUESTION in prompt for prompt in llm.prompts[1:])
    assert chat.chat_history[0].content == QUESTION
    chat.reset()
    assert chat.chat_history == []
    assert (Settings._llm, Settings._embed_model) == (None, None)


@pytest.mark.parametrize("mode", [ChatMode.BEST, ChatMode.CONTEXT])
def test_without_an_llm_the_backbone_replies(index, history, mode):
    response = index.as_chat_engine(mode, top_k=1, memory=history).chat(QUESTION)
    assert response.response
    assert len(response.source_nodes) == 1
    assert Settings._llm is None


async def test_a_chat_streams(index, llm, history):
    chat = index.as_chat_engine(llm=llm, top_k=2, memory=history)
    response = chat.stream_chat(QUESTION)
    assert "".join(response.response_gen) == "Dana says yes."
    assert len(response.source_nodes) == 2
    response = await chat.astream_chat(QUESTION)
    assert "".join([text async for text in response.async_response_gen()]) == "Dana says yes."


def test_options_reach_the_engine_and_the_chat(index, llm, history):
    chat = index.as_chat_engine(
        ChatMode.CONTEXT, llm=llm, top_k=1, system_prompt="Answer like a pirate.", memory=history
    )
    chat.chat(QUESTION)
    assert "Answer like a pirate." in llm.prompts[-1]
    assert index.as_chat_engine(ChatMode.SIMPLE, llm=llm, memory=history).chat("Hello.").response == "Dana says yes."
    with pytest.raises(InputError, match="QueryEngineTool"):
        index.as_chat_engine(ChatMode.REACT, llm=llm)


async def test_the_backbone_completes_the_same_on_every_route(local):
    whole = local.complete("Hello")
    assert whole.text
    assert (await local.acomplete("Hello")).text == whole.text
    streamed = list(local.stream_complete("Hello"))
    assert "".join(part.delta for part in streamed) == streamed[-1].text == whole.text
    assert [part.text async for part in await local.astream_complete("Hello")] == [part.text for part in streamed]
    assert local.chat([ChatMessage(role="user", content="Hello")]).message.content


def test_the_backbone_reports_its_window_and_counts_its_tokens(local, roomy):
    assert local.metadata.context_window == roomy.backbone.window
    counter = TokenCountingHandler(tokenizer=str.split)
    local.callback_manager = CallbackManager([counter])
    response = local.complete("Hello")
    assert counter.completion_llm_token_count == response.raw["usage"]["completion_tokens"] <= 8
    assert counter.prompt_llm_token_count == len(roomy.backbone.chat("Hello"))


async def test_the_loop_goes_on_while_the_backbone_writes(local, roomy):
    taken, go = threading.Event(), threading.Event()

    def hold():
        taken.set()
        return go.wait(PATIENCE)

    busy = asyncio.create_task(asyncio.to_thread(roomy.backbone.scheduler.call, hold))
    assert await asyncio.to_thread(taken.wait, PATIENCE)
    task = asyncio.create_task(local.acomplete("Hello"))
    await asyncio.sleep(0)  # the task begins; were it to wait in the loop, nobody would let the backbone go
    assert not task.done()
    go.set()
    assert await busy
    assert (await task).text


def test_leaving_a_stream_gives_the_backbone_back(local, roomy):
    stream = local.stream_complete("Hello")
    next(stream)
    stream.close()
    free = threading.Event()
    threading.Thread(target=roomy.backbone.scheduler.call, args=(free.set,)).start()
    assert free.wait(PATIENCE)


def test_the_settings_of_the_backbone_survive_a_round_trip_and_typos_are_refused(local):
    assert "memory" not in local.to_dict()
    assert BackboneLLM.from_dict(local.to_dict()).max_tokens == 8
    for wrong in ({"max_token": 3}, {"max_tokens": 0}):
        with pytest.raises(ValidationError):
            BackboneLLM(**wrong)
