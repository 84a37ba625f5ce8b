"""The routes by which LangChain's users reach us: chains, classic chains, graphs, histories, batches."""

import asyncio
import copy
import gc
import pickle
import weakref
from operator import itemgetter
from typing import Any, TypedDict

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from memrecall_kv.errors import InputError
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from pydantic import ValidationError

from langchain_memrecall import (
    MemRecallDocumentCompressor,
    MemRecallRetriever,
    MemRecallRunnable,
    MemRecallStore,
    create_memrecall_tool,
)

QUESTION = "Who approves trips?"
PROMPT = ChatPromptTemplate.from_messages([("system", "{context}"), ("human", "{input}")])


@pytest.fixture
def retriever(scripted, bank):
    return MemRecallRetriever(bank=bank, memory=scripted, k=2)


def model(*lines):
    return GenericFakeChatModel(messages=iter([AIMessage(line) for line in lines]))


def without_seconds(result):
    stages = [{**stage, "seconds": 0.0} for stage in result["usage"]["stages"]]
    return {**result, "usage": {**result["usage"], "seconds": 0.0, "stages": stages}}


def test_a_chain_of_retriever_prompt_model_and_parser(retriever):
    def joined(documents):
        return "\n".join(document.page_content for document in documents)

    chain = (
        {"context": retriever | joined, "input": RunnablePassthrough()} | PROMPT | model("Dana.") | StrOutputParser()
    )
    assert chain.invoke(QUESTION) == "Dana."


def test_a_chain_that_goes_on_with_the_answer(ask):
    chain = itemgetter("question") | ask | itemgetter("answer") | ChatPromptTemplate.from_template("Is it so: {it}?")
    with pytest.raises(KeyError):
        chain.invoke({"input": QUESTION})
    prompt = ChatPromptTemplate.from_template("{input} Is it so: {answer}?")
    assert (ask | prompt).invoke(QUESTION).to_string() == f"Human: {QUESTION} Is it so: Dana Whitfield does.?"
    assert (ask | prompt | model("It is.") | StrOutputParser()).invoke(QUESTION) == "It is."


def test_langchains_retrieval_chain_with_our_retriever_streams_sources_first(retriever):
    chain = create_retrieval_chain(retriever, create_stuff_documents_chain(model("Dana it is."), PROMPT))
    chunks = list(chain.stream({"input": QUESTION}))
    keys = [next(iter(chunk)) for chunk in chunks]
    assert keys.index("context") < keys.index("answer")
    assert "".join(chunk.get("answer", "") for chunk in chunks) == "Dana it is."
    assert all("recall_step" in document.metadata["memrecall"] for document in chunks[keys.index("context")]["context"])


def test_our_runnable_gives_the_keys_of_langchains_retrieval_chain(ask, retriever):
    chain = create_retrieval_chain(retriever, create_stuff_documents_chain(model("Dana."), PROMPT))
    theirs = chain.invoke({"input": QUESTION})
    assert set(theirs) <= set(ask.invoke({"input": QUESTION}))
    assert theirs["context"] == ask.invoke({"input": QUESTION})["context"]


def test_our_runnable_answers_from_what_another_retriever_proposes(scripted, documents):
    ask = MemRecallRunnable(memory=scripted, top_k=1)
    theirs = RunnableLambda(lambda question: documents[:2])
    chain = RunnableParallel(input=RunnablePassthrough(), documents=theirs) | ask
    chunks = list(chain.stream(QUESTION))
    assert [next(iter(chunk)) for chunk in chunks][:2] == ["input", "context"]
    assert {document.id for document in chain.invoke(QUESTION)["context"]} <= {"travel", "limits"}
    ask.close()


def test_sources_survive_a_chain_that_picks_and_streams(ask):
    chain = ask.pick(["context", "answer"])
    total = None
    for chunk in chain.stream(QUESTION):
        total = chunk if total is None else total + chunk
    assert (len(total["context"]), total["answer"]) == (2, "Dana Whitfield does.")


def test_two_of_us_side_by_side_stream_both(scripted, bank):
    both = RunnableParallel(
        finance=MemRecallRunnable(bank=bank, memory=scripted, filter={"team": "finance"}),
        kitchen=MemRecallRunnable(bank=bank, memory=scripted, filter={"team": "kitchen"}),
    )
    result = both.invoke(QUESTION)
    assert {document.metadata["team"] for document in result["finance"]["context"]} == {"finance"}
    assert {document.metadata["team"] for document in result["kitchen"]["context"]} == {"kitchen"}
    assert {key for chunk in both.stream(QUESTION) for key in chunk} == {"finance", "kitchen"}


def mixed():
    """Sixteen inputs of every form."""
    documents = [Document(id="x", page_content="Bo signs contracts."), Document(page_content="Cy checks them.")]
    history = [("human", "Who approves trips?"), ("ai", "Dana.")]
    forms = [
        QUESTION,
        {"input": "When is lunch?"},
        {"question": "What is the limit?", "filter": {"team": "finance"}},
        {"input": "Who signs?", "documents": documents},
        {"input": "Since when?", "chat_history": history},
        {"input": "Nobody?", "filter": {"team": "nobody"}},
        {"input": "Who checks?", "documents": documents[1:], "chat_history": history},
        "What is broken?",
    ]
    return [*forms, *reversed(forms)]


@pytest.mark.parametrize("width", [None, 1, 3])
async def test_a_batch_of_mixed_inputs_gives_what_single_calls_give(ask, width):
    inputs = mixed()
    single = [without_seconds(ask.invoke(given)) for given in inputs]
    config = {"max_concurrency": width}
    assert [without_seconds(result) for result in ask.batch(inputs, config)] == single
    assert [without_seconds(result) for result in await ask.abatch(inputs, config)] == single
    completed = dict(ask.batch_as_completed(inputs, config, return_exceptions=True))
    assert {place: without_seconds(result) for place, result in completed.items()} == dict(enumerate(single))


def test_a_batch_opens_the_bank_once(worded, bank, monkeypatch):
    memory = tiny_memory(worded.config, backbone=worded.backbone)
    opened, open_bank = [], memory.open_bank
    monkeypatch.setattr(memory, "open_bank", lambda *where, **how: opened.append(where) or open_bank(*where, **how))
    ask = MemRecallRunnable(bank=bank.path, memory=memory, top_k=2)
    assert len(ask.batch([f"Who does job {number}?" for number in range(16)])) == 16
    assert len(opened) == 1
    ask.close()


# deprecated by LangChain, and still in use; its successor is the graph below
@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
def test_a_history_is_kept_by_langchains_wrapper(bank):
    questions = []

    def reply(question, notes):
        questions.append(question)
        return f"Answer {len(questions)}."

    histories: dict[str, InMemoryChatMessageHistory] = {}
    ask = MemRecallRunnable(bank=bank, memory=tiny_memory(reasoner=ScriptedReasoner({}, reply)), top_k=1)
    chat = RunnableWithMessageHistory(
        ask,
        lambda session_id: histories.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="input",
        history_messages_key="chat_history",
        output_messages_key="answer",
    )
    config = {"configurable": {"session_id": "1"}}
    assert chat.invoke({"input": "Who approves trips?"}, config)["answer"] == "Answer 1."
    assert chat.invoke({"input": "And lunch?"}, config)["answer"] == "Answer 2."
    assert questions == ["Who approves trips?", "Answer 1. And lunch?"]
    assert [message.content for message in histories["1"].messages][1::2] == ["Answer 1.", "Answer 2."]


class Asking(TypedDict, total=False):
    question: str
    result: dict[str, Any]


async def test_it_is_a_node_of_a_graph_whose_steps_and_tokens_can_be_streamed(ask):
    graph = StateGraph(Asking)
    graph.add_node("recall", lambda state: {"result": ask.invoke(state["question"])})
    graph.add_edge(START, "recall")
    graph.add_edge("recall", END)
    app = graph.compile()
    assert app.invoke({"question": QUESTION})["result"]["answer"] == "Dana Whitfield does."
    tokens = [message.content for message, _ in app.stream({"question": QUESTION}, stream_mode="messages")]
    assert "".join(tokens) == "Dana Whitfield does."
    events = [event["name"] async for event in app.astream_events({"question": QUESTION}) if "custom" in event["event"]]
    assert "memrecall_step" in events


def test_a_graph_with_a_checkpointer_is_the_chat_history(bank):
    questions = []

    def reply(question, notes):
        questions.append(question)
        return "Dana."

    ask = MemRecallRunnable(bank=bank, memory=tiny_memory(reasoner=ScriptedReasoner({}, reply)), top_k=1)

    def recall(state: MessagesState):
        *before, last = state["messages"]
        return {"messages": [AIMessage(ask.invoke({"input": last.text, "chat_history": before})["answer"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("recall", recall)
    graph.add_edge(START, "recall")
    app = graph.compile(checkpointer=InMemorySaver())
    for text in ("Who approves?", "Since when?"):
        app.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": "1"}})
    assert questions == ["Who approves?", "Dana. Since when?"]


class Counting(BaseCallbackHandler):
    def __init__(self, errors):
        self.errors = errors

    def on_chain_error(self, error, *, parent_run_id=None, **kwargs):
        if parent_run_id is not None:
            self.errors.append(error)


def test_retries_fallbacks_and_listeners(ask, scripted, bank):
    heard = []
    listened = ask.with_listeners(on_end=lambda run: heard.append(run.outputs["answer"]))
    assert listened.invoke(QUESTION)["answer"] == heard[0]
    failing = MemRecallRunnable(memory=scripted)  # has no bank
    assert failing.with_fallbacks([ask]).invoke(QUESTION)["answer"] == "Dana Whitfield does."
    attempts = []
    with pytest.raises(InputError):
        failing.with_retry(
            retry_if_exception_type=(InputError,), stop_after_attempt=2, wait_exponential_jitter=False
        ).invoke(QUESTION, {"callbacks": [Counting(attempts)]})
    assert len(attempts) == 2


class Failing(FakeListChatModel):
    """Fails before it has written anything."""

    def _stream(self, *given, **kwargs):
        raise ConnectionError("nobody there")

    async def _astream(self, *given, **kwargs):
        raise ConnectionError("nobody there")
        yield


@pytest.mark.parametrize("what", ["bank", "gate", "llm"])
async def test_a_stream_falls_back_on_another_before_its_first_token(ask, scripted, bank, tmp_path, what, monkeypatch):
    broken = {
        "bank": lambda: MemRecallRunnable(bank=tmp_path / "nowhere", memory=scripted),
        "gate": lambda: MemRecallRunnable(
            bank=bank, memory=tiny_memory(gate=ScriptedGate(lambda *given: 1 / 0), backbone=scripted.backbone)
        ),
        "llm": lambda: MemRecallRunnable(bank=bank, memory=scripted, llm=Failing(responses=["x"])),
    }[what]()
    safe, expected = broken.with_fallbacks([ask]), ask.invoke(QUESTION)
    for chunks in ([*safe.stream(QUESTION)], [chunk async for chunk in safe.astream(QUESTION)]):
        assert [next(iter(chunk)) for chunk in chunks[:3]] == ["input", "context", "answer"]
        assert "".join(chunk.get("answer", "") for chunk in chunks) == expected["answer"]
        assert [chunk["input"] for chunk in chunks if "input" in chunk] == [QUESTION]


@pytest.mark.parametrize("kind", [MemRecallRetriever, MemRecallRunnable])
def test_without_a_bank_documents_go_into_a_temporary_one_that_goes_with_the_object(
    documents, scripted, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for end in ("close", "collect"):
        made = kind.from_documents(documents, memory=scripted)
        assert made.invoke(QUESTION)
        copied = made.with_config(tags=["a"]) | (lambda found: found)
        assert copied.invoke(QUESTION)
        assert create_memrecall_tool(made).invoke({"question": QUESTION})
        assert len([*tmp_path.iterdir()]) == 1
        if end == "close":
            made.close()
        del made, copied
        gc.collect()
        assert [*tmp_path.iterdir()] == []
    with pytest.raises(ValidationError):
        kind.from_documents(documents, memory=scripted, modle="typo")
    with pytest.raises(InputError):
        kind.from_documents([], memory=scripted)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", [MemRecallRetriever, MemRecallRunnable, MemRecallDocumentCompressor])
def test_what_is_configured_can_be_copied_and_pickled(scripted, bank, kind):
    made = kind(memory=scripted, **({} if kind is MemRecallDocumentCompressor else {"bank": bank}))
    assert copy.deepcopy(made).memory is scripted
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 - it is ours
    assert again.memory is None
    assert kind is MemRecallDocumentCompressor or str(again.bank) == str(bank.path)


def test_two_runnables_and_all_the_rest_load_one_model(documents, checkpoint, tmp_path):
    named = {"name_or_path": checkpoint}
    first = MemRecallRunnable.from_documents(documents, bank=tmp_path / "bank", **named)
    others = [
        MemRecallRunnable(bank=tmp_path / "bank", **named),
        MemRecallRetriever(bank=tmp_path / "bank", **named),
        MemRecallDocumentCompressor(**named),
        MemRecallStore(tmp_path / "bank", **named),
    ]
    assert len({id(each._memory.get()) for each in [first, *others]}) == 1


def test_configuring_a_field_per_call_loads_no_second_model(documents, checkpoint, tmp_path):
    ask = MemRecallRunnable.from_documents(documents, bank=tmp_path / "bank", name_or_path=checkpoint, top_k=1)
    memory = ask._memory.get()
    configured = ask.configurable_fields(top_k=ConfigurableField(id="top_k"))
    prepared, _ = configured._prepare({"configurable": {"top_k": 3}})
    assert len(configured.invoke(QUESTION, {"configurable": {"top_k": 3}})["context"]) == 3
    assert prepared._memory.get() is memory
    ask.close()


def test_a_model_nobody_uses_any_more_is_freed(documents, checkpoint, tmp_path):
    retriever = MemRecallRetriever.from_documents(documents, bank=tmp_path / "bank", name_or_path=checkpoint)
    memory = weakref.ref(retriever._memory.get())
    retriever.close()
    del retriever
    gc.collect()
    assert memory() is None


class Watched:
    """Something an answer holds while it is written."""


@pytest.mark.parametrize("route", ["stream", "astream"])
async def test_leaving_a_stream_stops_the_writing_and_frees_what_it_held(bank, route, workers_are_gone):
    written, held = [], []

    class Endless(ScriptedReasoner):
        def answer(self, *arguments):
            watched = Watched()
            held.append(weakref.ref(watched))
            for number in range(100_000):
                written.append(number)
                yield f"word{number} "

    ask = MemRecallRunnable(bank=bank, memory=tiny_memory(reasoner=Endless({}, lambda *_: "")), top_k=1)
    if route == "stream":
        stream = ask.stream(QUESTION)
        next(chunk for chunk in stream if "answer" in chunk)
        stream.close()
    else:
        astream = ask.astream(QUESTION)
        async for chunk in astream:
            if "answer" in chunk:
                break
        await astream.aclose()
        await workers_are_gone()  # each ends with the word it is at
    gc.collect()
    assert 0 < len(written) < 100_000
    assert held[0]() is None


async def test_concurrent_questions_with_documents_get_what_they_get_alone(scripted):
    ask = MemRecallRunnable(memory=scripted, top_k=1)
    inputs = [
        {
            "input": f"Who does job {n}?",
            "documents": [Document(page_content=f"Person {i} does job {i}.") for i in (n, 99)],
        }
        for n in range(8)
    ]
    together = await asyncio.gather(*(ask.ainvoke(given) for given in inputs))
    alone = [ask.invoke(given) for given in inputs]
    assert [without_seconds(result)["context"] for result in together] == [result["context"] for result in alone]
    ask.close()


async def test_a_store_is_read_while_it_is_written(scripted, tmp_path):
    store = MemRecallStore(tmp_path / "bank", memory=scripted)
    written = [store.aadd_documents([Document(id=str(n), page_content=f"Person {n} does job {n}.")]) for n in range(6)]
    read = [store.asimilarity_search("Who does job 3?", k=10) for _ in range(6)]
    await asyncio.gather(*written, *read)
    assert len(await store.asimilarity_search("Who does job 3?", k=10)) == 6
    store.close()


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_it_can_be_a_tool_by_langchains_own_means(ask):
    tool = ask.as_tool(name="ask", description="Answers.", arg_types={"input": str})
    assert tool.invoke({"input": QUESTION})["answer"] == "Dana Whitfield does."
