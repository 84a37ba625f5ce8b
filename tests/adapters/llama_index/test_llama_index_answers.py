"""Who writes the answer and what of: the host's LLM, its prompts, and the response modes."""

import gc
import inspect

import pytest
from llama_index.core import Settings
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from memrecall_kv import GateConfig, MemRecallConfig
from memrecall_kv.errors import InputError
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory

from llama_index_memrecall import MemRecallPostprocessor, MemRecallQueryEngine

QUESTION = "Who approves trips?"


def ids(nodes):
    return [node.node_id for node in nodes]


@pytest.fixture
def answering(scripted, documents, llm):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=4, llm=llm)
    yield engine
    engine.close()


@pytest.fixture
def streaming_llm(scripted, documents, llm):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=4, llm=llm, streaming=True)
    yield engine
    engine.close()


async def test_the_hosts_llm_answers_from_notes_and_recalled_text(answering, engine, llm, documents):
    response = answering.query(QUESTION)
    assert (type(response), response.response) == (Response, "Dana says yes.")
    (prompt,) = llm.prompts
    assert QUESTION in prompt
    assert "Notes taken while reading:\n- Dana approves." in prompt
    assert all(document.text in prompt for document in documents)
    assert response.source_nodes == answering.retrieve(QUESTION)
    assert set(response.metadata) == {*ids(response.source_nodes), "usage", "trace"}
    assert response.metadata["usage"]["blocks_opened"] == 4
    assert "Dana approves." in [step["note"] for step in response.metadata["trace"]]
    again = await answering.aquery(QUESTION)
    assert (again.response, again.source_nodes) == (response.response, response.source_nodes)
    assert llm.prompts == [prompt, prompt]


async def test_neither_the_llm_nor_the_answer_touches_the_hosts_default_models(answering, streaming_llm):
    answering.query(QUESTION)
    await streaming_llm.aquery(QUESTION)
    assert (Settings._llm, Settings._embed_model) == (None, None)


def test_the_hosts_llm_streams_and_the_first_word_comes_before_the_last_is_made(streaming_llm, llm, event_log):
    response = streaming_llm.query(QUESTION)
    assert isinstance(response, StreamingResponse)
    assert inspect.isgenerator(response.response_gen)
    assert len(response.source_nodes) == 4
    assert llm.written == []
    assert next(response.response_gen) == "Dana "
    assert llm.written == ["Dana "]
    assert "usage" not in response.metadata
    assert "".join(response.response_gen) == "says yes."
    assert response.metadata["usage"]["blocks_opened"] == 4
    (finished,) = event_log.of("RecallFinishedEvent")
    assert (finished.response, finished.interrupted) == ("Dana says yes.", False)


async def test_the_hosts_llm_streams_into_an_event_loop(streaming_llm, llm, event_log):
    response = await streaming_llm.aquery(QUESTION)
    assert isinstance(response, AsyncStreamingResponse)
    assert inspect.isasyncgen(response.response_gen)
    assert llm.written == []
    assert await anext(response.response_gen) == "Dana "
    assert llm.written == ["Dana "]
    assert [text async for text in response.response_gen] == ["says ", "yes."]
    assert not event_log.of("RecallFinishedEvent")[0].interrupted


async def test_a_stream_that_is_left_stops_the_hosts_llm(streaming_llm, llm, event_log):
    response = streaming_llm.query(QUESTION)
    next(response.response_gen)
    response.response_gen.close()
    response = await streaming_llm.aquery(QUESTION)
    await anext(response.response_gen)
    await response.response_gen.aclose()
    event_log.events.clear()
    assert llm.written == ["Dana ", "Dana "]
    response = streaming_llm.query(QUESTION)
    event_log.events.clear()
    del response
    gc.collect()
    assert event_log.of("RecallFinishedEvent")[0].interrupted


def test_with_nothing_to_answer_from_the_hosts_llm_is_not_asked(documents, llm):
    memory = tiny_memory(MemRecallConfig(gate=GateConfig(threshold=0.5)), gate=ScriptedGate(lambda *_: 0.1))
    for options in ({"top_k": 2}, {}):
        engine = MemRecallQueryEngine.from_documents(documents, memory=memory, llm=llm, **options)
        assert engine.query(QUESTION).response == memory.config.reasoner.not_found
        engine.close()
    assert llm.prompts == []


def test_refine_asks_once_per_text_and_compact_once(scripted, documents, llm):
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=scripted, top_k=2, llm=llm, response_mode=ResponseMode.REFINE
    )
    engine.query(QUESTION)
    assert len(llm.prompts) == 2 + ("Notes taken" in llm.prompts[0])
    engine.close()


@pytest.mark.parametrize("mode", ["compact", "refine", ResponseMode.REFINE])
def test_the_local_reasoner_reads_block_by_block_in_both_answering_modes(engine, scripted, documents, mode):
    other = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=2, response_mode=mode)
    assert other.query(QUESTION).response == engine.query(QUESTION).response
    other.close()


@pytest.mark.parametrize("with_llm", [True, False])
async def test_no_text_recalls_and_writes_nothing(documents, llm, with_llm):
    answered = []
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: answered.append(question) or "Dana."))
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=memory, top_k=2, response_mode="no_text", llm=llm if with_llm else None
    )
    for response in (engine.query(QUESTION), await engine.aquery(QUESTION)):
        assert response.response == ""
        assert response.source_nodes == engine.retrieve(QUESTION)
        assert response.metadata["usage"]["blocks_opened"] == 2
    assert (answered, llm.prompts) == ([], [])
    engine.close()


async def test_context_only_answers_with_the_recalled_text(memory, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=2, response_mode="context_only")
    response = engine.query(QUESTION)
    assert response.response == "\n\n".join(node.get_content(MetadataMode.LLM) for node in response.source_nodes)
    assert (await engine.aquery(QUESTION)).response == response.response
    engine.close()
    empty = MemRecallQueryEngine.from_documents([], memory=memory, response_mode="context_only")
    assert empty.query(QUESTION).response == memory.config.reasoner.not_found
    empty.close()


@pytest.mark.parametrize("mode", ["no_text", "context_only"])
def test_modes_without_an_answer_stream_too(memory, documents, mode):
    whole = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=2, response_mode=mode)
    streamed = MemRecallQueryEngine.from_documents(
        documents, memory=memory, top_k=2, response_mode=mode, streaming=True
    )
    assert "".join(streamed.query(QUESTION).response_gen) == whole.query(QUESTION).response
    whole.close()
    streamed.close()


@pytest.mark.parametrize("mode", ["tree_summarize", ResponseMode.ACCUMULATE, "simple_summarize", "typo"])
def test_other_response_modes_are_refused_with_what_to_do(memory, documents, monkeypatch, mode):
    compressed = []
    monkeypatch.setattr(type(memory), "ingest", lambda *args, **kwargs: compressed.append(args))
    with pytest.raises(ValueError, match=r"compact, refine, no_text, context_only.*RetrieverQueryEngine"):
        MemRecallQueryEngine.from_documents(documents, memory=memory, response_mode=mode)
    assert compressed == []


def test_the_prompts_are_those_of_the_host_and_can_be_replaced(answering, llm):
    assert set(answering.get_prompts()) >= {
        "response_synthesizer:text_qa_template",
        "response_synthesizer:refine_template",
    }
    template = PromptTemplate("Use {context_str} for {query_str}")
    answering.update_prompts({"response_synthesizer:text_qa_template": template})
    answering.query(QUESTION)
    assert llm.prompts[-1].startswith("Use Notes taken")
    with pytest.raises(InputError, match="typo"):
        answering.update_prompts({"response_synthesizer:typo": template})


def test_templates_can_be_given_and_need_an_llm(scripted, documents, llm):
    template = PromptTemplate("Use {context_str} for {query_str}")
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, llm=llm, text_qa_template=template)
    engine.query(QUESTION)
    assert llm.prompts[-1].startswith("Use ")
    engine.close()
    with pytest.raises(InputError, match="llm"):
        MemRecallQueryEngine.from_documents(documents, memory=scripted, text_qa_template=template)
    with pytest.raises(InputError, match="str"):
        MemRecallQueryEngine.from_documents(documents, memory=scripted, llm="default")


def test_the_llm_keeps_its_callback_manager_unless_the_engine_has_one(scripted, documents):
    llm = MockLLM()
    llm.callback_manager = own = CallbackManager([])
    MemRecallQueryEngine.from_documents(documents, memory=scripted, llm=llm).close()
    assert llm.callback_manager is own


async def test_synthesize_answers_from_nodes_that_were_found_elsewhere(engine, answering, llm):
    nodes = [NodeWithScore(node=TextNode(id_="a", text="Rui approves trips."), score=0.5)]
    extra = [NodeWithScore(node=TextNode(id_="b", text="See also the annex."))]
    for response in (
        engine.synthesize(QueryBundle(QUESTION), nodes, extra),
        await engine.asynthesize(QueryBundle(QUESTION), nodes, extra),
    ):
        assert response.response == "Dana Whitfield does."
        assert ids(response.source_nodes) == ["a", "b"]
        assert response.source_nodes[0].metadata == {"recall_step": 0}
    for response in (
        answering.synthesize(QueryBundle(QUESTION), nodes, extra),
        await answering.asynthesize(QueryBundle(QUESTION), nodes, extra),
    ):
        assert response.response == "Dana says yes."
        assert ids(response.source_nodes) == ["a", "b"]
        assert "Rui approves trips." in llm.prompts[-1]
    assert nodes[0].metadata == {}


@pytest.mark.parametrize("route", ["sync", "async"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_token_counters_see_what_the_local_reasoner_read_and_wrote(
    memory, documents, event_log, streaming, route
):
    counter = TokenCountingHandler(tokenizer=str.split)
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=memory, top_k=2, streaming=streaming, callback_manager=CallbackManager([counter])
    )
    response = engine.query(QUESTION) if route == "sync" else await engine.aquery(QUESTION)
    if streaming:
        response = response.get_response() if route == "sync" else await response.get_response()
    usage = response.metadata["usage"]
    assert min(usage["prompt_tokens"], usage["generated_tokens"]) > 0
    assert counter.completion_llm_token_count == usage["generated_tokens"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.total_llm_token_count == usage["prompt_tokens"] + usage["generated_tokens"]
    assert len(counter.llm_token_counts) == 1
    (start,), (end,) = event_log.of("LLMCompletionStartEvent"), event_log.of("LLMCompletionEndEvent")
    assert (start.prompt, end.prompt) == (QUESTION, QUESTION)
    assert end.response.text == event_log.of("RecallFinishedEvent")[0].response
    engine.close()


def test_token_counters_see_the_hosts_llm_once_per_call(scripted, documents, llm):
    counter = TokenCountingHandler(tokenizer=str.split)
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=scripted, top_k=2, llm=llm, callback_manager=CallbackManager([counter])
    )
    engine.query(QUESTION)
    assert len(counter.llm_token_counts) == len(llm.prompts) == 1
    assert counter.completion_llm_token_count == 3
    engine.close()


def test_two_engines_and_a_postprocessor_load_one_model(documents, nodes, checkpoint, monkeypatch):
    from memrecall_kv.backbone import loading

    loaded, load = [], loading._load
    monkeypatch.setattr(loading, "_load", lambda *args, **kwargs: loaded.append(args) or load(*args, **kwargs))
    first, second = (MemRecallQueryEngine.from_documents(documents, name_or_path=checkpoint) for _ in range(2))
    gate = MemRecallPostprocessor(name_or_path=checkpoint, top_n=1)
    first.query(QUESTION)
    second.query(QUESTION)
    gate.postprocess_nodes([NodeWithScore(node=node) for node in nodes], query_str=QUESTION)
    assert len(loaded) == 1
    for opened in (first, second, gate):
        opened.close()
