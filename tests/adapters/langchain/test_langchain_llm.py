"""A chat model of LangChain's writes the answer out of what was recalled."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda
from memrecall_kv.errors import InputError
from patience import PATIENCE

from langchain_memrecall import MemRecallRunnable

QUESTION = "Who approves trips?"
SENTENCE = "It is Dana Whitfield who approves all of the trips."


class Scribe(BaseChatModel):
    """Writes a sentence word by word, keeps what it was asked, and may wait before the last word."""

    asked: list = []  # noqa: RUF012 - pydantic copies it
    sentence: str = SENTENCE
    threads: list = []  # noqa: RUF012
    has_sync: bool = True

    @property
    def _llm_type(self):
        return "scribe"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.sentence))])

    def _pieces(self, messages):
        self.asked.append(messages)
        self.threads.append(threading.get_ident())
        for word in self.sentence.split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(word + " "))
        usage = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
        message = AIMessageChunk("", usage_metadata=usage, response_metadata={"model_name": "scribe-1"})
        yield ChatGenerationChunk(message=message)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        if not self.has_sync:
            raise NotImplementedError("async only")
        yield from self._pieces(messages)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for piece in self._pieces(messages):
            await asyncio.sleep(0)
            yield piece


@pytest.fixture
def scribe():
    return Scribe()


@pytest.fixture
def ask(scripted, bank, scribe):
    return MemRecallRunnable(bank=bank, memory=scripted, top_k=2, llm=scribe)


def test_the_models_words_are_the_answer_and_the_recalled_texts_are_what_it_reads(ask, scribe):
    result = ask.invoke(QUESTION)
    assert result["answer"] == SENTENCE
    ((system, question),) = scribe.asked
    assert question.content == QUESTION
    assert all(source.page_content in system.content for source in result["context"])
    assert len(result["context"]) == 2


def test_its_tokens_are_streamed_after_the_sources(ask):
    chunks = list(ask.stream(QUESTION))
    keys = [next(iter(chunk)) for chunk in chunks]
    assert keys == ["input", "context", *["answer"] * (len(keys) - 3), "usage"]
    assert keys.count("answer") > 3
    assert "".join(chunk.get("answer", "") for chunk in chunks) == SENTENCE


async def test_its_async_stream_is_used_in_the_loop(scripted, bank):
    scribe = Scribe(has_sync=False, threads=[], asked=[])
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=2, llm=scribe)
    result = await ask.ainvoke(QUESTION)
    assert (result["answer"], scribe.threads) == (SENTENCE, [threading.get_ident()])
    pieces = [chunk["answer"] async for chunk in ask.astream(QUESTION) if "answer" in chunk]
    assert ("".join(pieces), len(pieces) > 3) == (SENTENCE, True)


def test_nothing_found_does_not_ask_the_model(ask, scribe, scripted):
    result = ask.invoke({"input": QUESTION, "filter": {"team": "nobody"}})
    assert (result["answer"], scribe.asked) == (scripted.config.reasoner.not_found, [])


def test_a_prompt_of_ones_own_gets_context_question_history_and_notes(scripted, bank, scribe):
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Notes: {notes}"), ("placeholder", "{chat_history}"), ("human", "{context}\n{question}")]
    )
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=4, llm=scribe, prompt=prompt)
    ask.invoke({"question": QUESTION, "chat_history": [HumanMessage("Hello")]})
    system, hello, human = scribe.asked[-1]
    assert (system.content, hello.content) == ("Notes: Dana approves.", "Hello")
    assert human.content.endswith(QUESTION)


def test_the_history_is_part_of_the_default_prompt(ask, scribe):
    ask.invoke({"input": QUESTION, "chat_history": [("human", "Hello"), ("ai", "Hi")]})
    assert [message.content for message in scribe.asked[-1][1:]] == ["Hello", "Hi", QUESTION]


def test_a_text_model_and_a_chain_can_write_too(scripted, bank, scribe):
    prompt = PromptTemplate.from_template("{context} {input}")
    for llm in (FakeListLLM(responses=[SENTENCE]), scribe | StrOutputParser(), scribe.with_retry()):
        ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=llm, prompt=prompt)
        assert ask.invoke(QUESTION)["answer"] == SENTENCE


def test_what_writes_no_text_is_refused(scripted, bank):
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=RunnableLambda(lambda prompt: 42))
    with pytest.raises(InputError, match="int"):
        ask.invoke(QUESTION)


async def test_what_the_model_raises_reaches_the_caller_on_every_route(scripted, bank):
    def fail(prompt):
        raise ConnectionError("no model there")

    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=RunnableLambda(fail))
    with pytest.raises(ConnectionError, match="no model there"):
        ask.invoke(QUESTION)
    with pytest.raises(ConnectionError, match="no model there"):
        await ask.ainvoke(QUESTION)
    rescued = ask.with_fallbacks([MemRecallRunnable(bank=bank, memory=scripted, top_k=1)])
    assert rescued.invoke(QUESTION)["answer"] == "Dana Whitfield does."


@pytest.mark.parametrize("route", ["invoke", "ainvoke"])
async def test_its_usage_is_reported_and_counted_once(ask, route):
    counter = UsageMetadataCallbackHandler()
    config = {"callbacks": [counter]}
    result = ask.invoke(QUESTION, config) if route == "invoke" else await ask.ainvoke(QUESTION, config)
    assert result["usage"]["llm"] == {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
    assert counter.usage_metadata["scribe-1"]["total_tokens"] == 16
    assert len(counter.usage_metadata) == 1


class Endless(Scribe):
    """Writes until it is stopped."""

    started: threading.Event = threading.Event()
    stopped: threading.Event = threading.Event()

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        try:
            while True:
                yield ChatGenerationChunk(message=AIMessageChunk("more and more "))
                self.started.set()
                await asyncio.sleep(0.01)
        finally:
            self.stopped.set()


async def test_cancelling_stops_the_model(scripted, bank):
    llm = Endless(started=threading.Event(), stopped=threading.Event())
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=llm)
    task = asyncio.create_task(ask.ainvoke(QUESTION))
    assert await asyncio.to_thread(llm.started.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(llm.stopped.wait, PATIENCE)


async def test_leaving_an_async_stream_stops_the_model(scripted, bank):
    llm = Endless(started=threading.Event(), stopped=threading.Event())
    stream = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=llm).astream(QUESTION)
    async for chunk in stream:
        if "answer" in chunk:
            break
    await stream.aclose()
    assert await asyncio.to_thread(llm.stopped.wait, PATIENCE)


async def test_a_model_without_async_methods_finds_a_thread_however_many_wait_for_it(scripted, bank):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    llm = GenericFakeChatModel(messages=iter([AIMessage(SENTENCE)] * 8))
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=llm)
    assert [result["answer"] for result in await ask.abatch([QUESTION] * 8)] == [SENTENCE] * 8


class Crowded(Scribe):
    """Counts how many answers are written at once; each waits for the others."""

    barrier: threading.Barrier = threading.Barrier(2)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        self.barrier.wait(PATIENCE)
        yield ChatGenerationChunk(message=AIMessageChunk(SENTENCE))


def test_a_batch_overlaps_where_another_model_answers(scripted, bank):
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=Crowded(barrier=threading.Barrier(2)))
    results = ask.batch([QUESTION, "When is lunch?"], {"max_concurrency": 2})
    assert [result["answer"] for result in results] == [SENTENCE, SENTENCE]


def test_a_batch_honours_max_concurrency_where_another_model_answers(scripted, bank):
    llm = Crowded(barrier=threading.Barrier(2))
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=llm)
    llm.barrier = threading.Barrier(1)
    assert len(ask.batch([QUESTION] * 4, {"max_concurrency": 1})) == 4


def test_it_is_saved_with_its_model_and_prompt_if_they_can_be(memory, bank):
    llm = FakeListLLM(responses=[SENTENCE])
    prompt = ChatPromptTemplate.from_template("{context} {input}")
    saved = dumps(MemRecallRunnable(bank=bank, memory=memory, prompt=prompt, top_k=2))
    again = MemRecallRunnable.load(saved, memory=memory, allowed_objects=[ChatPromptTemplate, *prompt_classes()])
    assert (again.prompt, again.top_k, again.memory) == (prompt, 2, memory)
    with pytest.raises(ValueError, match="not allowed"):
        MemRecallRunnable.load(saved)
    with pytest.raises(NotImplementedError):
        MemRecallRunnable.load(dumps(MemRecallRunnable(bank=bank, memory=memory, llm=llm)))


def prompt_classes():
    from langchain_core.prompts import HumanMessagePromptTemplate

    return [HumanMessagePromptTemplate, PromptTemplate]


def test_langchains_own_fake_chat_model_writes(scripted, bank):
    llm = GenericFakeChatModel(messages=iter([AIMessage(SENTENCE)]))
    assert MemRecallRunnable(bank=bank, memory=scripted, top_k=1, llm=llm).invoke(QUESTION)["answer"] == SENTENCE
