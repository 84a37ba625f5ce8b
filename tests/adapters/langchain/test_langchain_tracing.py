"""What callbacks and tracers see: runs below ours, their parents, sources, tokens and LangSmith's parameters."""

import asyncio
from contextlib import aclosing

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, UsageMetadataCallbackHandler
from memrecall_kv.errors import BankError
from patience import PATIENCE

from langchain_memrecall import (
    MemRecallDocumentCompressor,
    MemRecallRetriever,
    MemRecallRunnable,
    create_memrecall_tool,
)

QUESTION = "Who approves trips?"


class Tracer(BaseCallbackHandler):
    """Keeps each run's kind, parent, metadata, and how it ended."""

    def __init__(self):
        self.runs, self.ends, self.tokens, self.steps = {}, {}, [], []

    def _begin(self, kind, run_id, parent_run_id, metadata, **kwargs):
        self.runs[kind] = {"id": run_id, "parent": parent_run_id, "metadata": metadata}

    def on_chain_start(self, serialized, inputs, **kwargs):
        self._begin("chain", **kwargs)

    def on_retriever_start(self, serialized, query, **kwargs):
        self._begin("retriever", **kwargs)

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self._begin("model", **kwargs)

    def on_retriever_end(self, documents, **kwargs):
        self.ends["retriever"] = list(documents)

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)

    def on_llm_end(self, response, **kwargs):
        self.ends["model"] = response.generations[0][0].message

    def on_retriever_error(self, error, **kwargs):
        self.ends["retriever"] = error

    def on_llm_error(self, error, **kwargs):
        self.ends["model"] = error

    def on_custom_event(self, name, data, *, run_id, **kwargs):
        self.steps.append((name, data["stage"], run_id))


@pytest.mark.parametrize("route", ["invoke", "stream", "ainvoke", "astream"])
async def test_recalling_and_writing_are_runs_below_the_answers(ask, route):
    tracer = Tracer()
    config = {"callbacks": [tracer], "metadata": {"tenant": "t"}}
    match route:
        case "invoke":
            context = ask.invoke(QUESTION, config)["context"]
        case "ainvoke":
            context = (await ask.ainvoke(QUESTION, config))["context"]
        case "stream":
            context = next(chunk["context"] for chunk in list(ask.stream(QUESTION, config)) if "context" in chunk)
        case "astream":
            chunks = [chunk async for chunk in ask.astream(QUESTION, config)]
            context = next(chunk["context"] for chunk in chunks if "context" in chunk)
    root = tracer.runs["chain"]["id"]
    assert (tracer.runs["retriever"]["parent"], tracer.runs["model"]["parent"]) == (root, root)
    assert tracer.ends["retriever"] == context
    assert "".join(tracer.tokens) == tracer.ends["model"].content == "Dana Whitfield does."
    assert {run_id for _, _, run_id in tracer.steps} == {root}
    assert tracer.runs["model"]["metadata"].items() >= {"tenant": "t", "ls_model_type": "chat"}.items()
    assert tracer.runs["model"]["metadata"]["ls_model_name"] == "tiny-llama-0"
    assert tracer.runs["retriever"]["metadata"]["ls_embedding_provider"] == "memrecall-kv"


def test_a_cost_counter_sees_the_tokens_of_the_memorys_own_model(ask):
    counter = UsageMetadataCallbackHandler()
    usage = ask.invoke(QUESTION, {"callbacks": [counter]})["usage"]
    counted = counter.usage_metadata["tiny-llama-0"]
    assert counted["output_tokens"] == usage["generated_tokens"] > 0
    assert counted["input_tokens"] == usage["prompt_tokens"] + usage["memory_tokens_read"] > 0


async def test_a_user_interface_that_shows_chat_model_events_shows_our_tokens(ask):
    events = [event async for event in ask.astream_events(QUESTION, version="v2")]
    tokens = [event["data"]["chunk"].content for event in events if event["event"] == "on_chat_model_stream"]
    (found,) = [event["data"]["output"] for event in events if event["event"] == "on_retriever_end"]
    assert "".join(tokens) == "Dana Whitfield does."
    assert len(found) == 2


def test_an_error_ends_the_run_it_happened_in(memory, tmp_path):
    tracer = Tracer()
    with pytest.raises(BankError):
        MemRecallRunnable(bank=tmp_path / "nowhere", memory=memory).invoke(QUESTION, {"callbacks": [tracer]})
    assert isinstance(tracer.ends["retriever"], BankError)
    assert "model" not in tracer.runs


def test_an_error_while_writing_ends_the_models_run(bank):
    from memrecall_kv.testing import ScriptedReasoner, tiny_memory

    class Failing(ScriptedReasoner):
        def answer(self, *arguments):
            yield "Dana Whitfield approves of all "
            raise BankError("A block is gone.", "Restore it.")

    tracer = Tracer()
    ask = MemRecallRunnable(bank=bank, memory=tiny_memory(reasoner=Failing({}, lambda *_: "")), top_k=1)
    with pytest.raises(BankError, match="gone"):
        ask.invoke(QUESTION, {"callbacks": [tracer]})
    assert isinstance(tracer.ends["model"], BankError)
    assert len(tracer.ends["retriever"]) == 1


def test_an_interruption_while_recalling_ends_the_retrievers_run(ask):
    class Interrupting(BaseCallbackHandler):
        raise_error = True

        def on_custom_event(self, name, data, **kwargs):
            if data["stage"] == "opened":
                raise KeyboardInterrupt

    tracer = Tracer()
    with pytest.raises(KeyboardInterrupt):
        ask.invoke(QUESTION, {"callbacks": [tracer, Interrupting()]})
    assert isinstance(tracer.ends["retriever"], KeyboardInterrupt)


def test_leaving_a_stream_ends_the_runs_with_what_there_was(ask):
    tracer = Tracer()
    stream = ask.stream(QUESTION, {"callbacks": [tracer]})
    next(chunk for chunk in stream if "answer" in chunk)
    stream.close()
    assert tracer.ends["model"].content
    assert not isinstance(tracer.ends["model"], BaseException)


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_retriever_sends_its_steps_and_langsmiths_parameters(memory, bank, is_async):
    tracer = Tracer()
    retriever = MemRecallRetriever(bank=bank, memory=memory, k=2)
    config = {"callbacks": [tracer]}
    found = await retriever.ainvoke(QUESTION, config) if is_async else retriever.invoke(QUESTION, config)
    assert tracer.ends["retriever"] == found
    assert [stage for _, stage, _ in tracer.steps].count("opened") == 2
    assert {run_id for _, _, run_id in tracer.steps} == {tracer.runs["retriever"]["id"]}
    metadata = tracer.runs["retriever"]["metadata"]
    assert metadata["ls_retriever_name"] == "memrecall"
    assert (metadata["ls_embedding_provider"], metadata["ls_embedding_model"]) == ("memrecall-kv", "tiny-llama-0")


def test_langsmiths_parameters_load_no_model(tmp_path):
    retriever = MemRecallRetriever(bank=tmp_path / "nowhere", name_or_path="no/such/model")
    assert retriever._get_ls_params()["ls_embedding_model"] == "no/such/model"


class Audit(AsyncCallbackHandler):
    """Holds something of the event loop's in every callback, and keeps what it was told in which loop."""

    def __init__(self):
        self.lock, self.told, self.loops = asyncio.Lock(), [], set()

    async def _tell(self, kind):
        async with self.lock:
            await asyncio.sleep(0)
            self.loops.add(id(asyncio.get_running_loop()))
            self.told.append(kind)

    async def on_custom_event(self, name, data, **kwargs):
        await self._tell(data["stage"])

    async def on_retriever_start(self, *given, **kwargs):
        await self._tell("retriever start")

    async def on_retriever_end(self, *given, **kwargs):
        await self._tell("retriever end")

    async def on_retriever_error(self, *given, **kwargs):
        await self._tell("retriever error")

    async def on_chat_model_start(self, *given, **kwargs):
        await self._tell("model start")

    async def on_llm_new_token(self, *given, **kwargs):
        await self._tell("token")

    async def on_llm_end(self, *given, **kwargs):
        await self._tell("model end")

    async def on_llm_error(self, *given, **kwargs):
        await self._tell("model error")


@pytest.fixture
def audit():
    return Audit()


async def drained(stream):
    return [chunk async for chunk in stream]


@pytest.mark.parametrize("route", ["ainvoke", "astream", "abatch", "retriever", "compressor", "tool"])
async def test_async_callbacks_are_called_in_the_callers_loop(scripted, bank, documents, audit, route):
    config = {"callbacks": [audit]}
    ask, retriever = MemRecallRunnable(bank=bank, memory=scripted), MemRecallRetriever(bank=bank, memory=scripted)
    compressor = MemRecallDocumentCompressor(memory=scripted, top_n=2)
    tool = create_memrecall_tool(ask)
    work = {
        "ainvoke": lambda: ask.ainvoke(QUESTION, config),
        "astream": lambda: drained(ask.astream(QUESTION, config)),
        "abatch": lambda: ask.abatch([QUESTION, QUESTION], config),
        "retriever": lambda: retriever.ainvoke(QUESTION, config),
        "compressor": lambda: compressor.acompress_documents(documents, QUESTION, [audit]),
        "tool": lambda: tool.ainvoke({"question": QUESTION}, config),
    }[route]
    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(4))), PATIENCE)
    assert audit.loops == {id(asyncio.get_running_loop())}
    assert {"scored", "opened"} <= set(audit.told)
    if route in ("ainvoke", "astream"):
        expected = ["retriever start", "retriever end", "model start", "model end", "finished"]
        assert [audit.told.count(kind) for kind in expected] == [4] * 5
    compressor.close()


async def test_runs_end_in_order_in_the_callers_loop_whatever_happens(scripted, bank, audit, tmp_path):
    config = {"callbacks": [audit]}
    async with aclosing(MemRecallRunnable(bank=bank, memory=scripted, top_k=1).astream(QUESTION, config)) as chunks:
        async for chunk in chunks:
            if "answer" in chunk:
                break
    ends = [kind for kind in audit.told if kind.startswith(("retriever", "model"))]
    assert ends == ["retriever start", "retriever end", "model start", "model end"]
    audit.told.clear()
    with pytest.raises(BankError):
        await MemRecallRunnable(bank=tmp_path / "nowhere", memory=scripted).ainvoke(QUESTION, config)
    assert audit.told == ["retriever start", "retriever error"]


def test_sync_routes_take_async_callbacks_as_langchain_does(scripted, bank, audit):
    MemRecallRunnable(bank=bank, memory=scripted, top_k=1).invoke(QUESTION, {"callbacks": [audit]})
    assert audit.told[0] == "retriever start"
    assert audit.told[-1] in {"model end", "finished"}
