"""Who writes the answer and what of: the host's LLM, its prompts, and the response modes."""

import gc
import inspect

import pytest
from llama_index.core import Settings
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from memrecall_kv import GateConfig, MemRecallConfig
from memrecall_kv.errors import InputError
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_backbone, tiny_memory

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
    assert set(response.metadata) == set(ids(response.source_nodes))
    assert response.metadata["usage"]["blocks_opened"] == 4
    assert "Dana approves." in [step["note"] for step in response.metadata["trace"]]
    (quote,) = response.metadata["quotes"]
    assert (quote["claim"], quote["claim_start"]) == ("Dana says yes.", 0)
    assert quote["verdict"] == "partly"
    assert "Dana" in quote["text"]
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
    assert response.metadata.get("usage") is None
    assert response.metadata.get("quotes") is None
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


@pytest.fixture
def doubting():
    """A memory whose gate believes in nothing."""
    return tiny_memory(MemRecallConfig(gate=GateConfig(threshold=0.5)), gate=ScriptedGate(lambda *_: 0.1))


@pytest.mark.parametrize("options", [{}, {"top_k": 2, "gate_veto": True}])
@pytest.mark.parametrize("streaming", [False, True])
async def test_with_nothing_to_answer_from_the_hosts_llm_is_not_asked(doubting, documents, llm, options, streaming):
    engine = MemRecallQueryEngine.from_documents(documents, memory=doubting, llm=llm, streaming=streaming, **options)
    answers = [str(engine.query(QUESTION))]
    response = await engine.aquery(QUESTION)
    answers.append(str((await response.get_response()) if streaming else response))
    assert answers == [doubting.config.reasoner.not_found] * 2
    assert llm.prompts == []
    engine.close()


@pytest.mark.parametrize("options", [{"top_k": 2}, {"gate_veto": False}])
@pytest.mark.parametrize("streaming", [False, True])
async def test_an_llm_with_a_number_of_nodes_is_asked_whatever_the_gate_believes(
    doubting, documents, llm, options, streaming
):
    engine = MemRecallQueryEngine.from_documents(documents, memory=doubting, llm=llm, streaming=streaming, **options)
    assert str(engine.query(QUESTION)) == "Dana says yes."
    response = await engine.aquery(QUESTION)
    assert str((await response.get_response()) if streaming else response) == "Dana says yes."
    assert len(response.source_nodes) >= 2
    assert all(source.text in llm.prompts[-1] for source in response.source_nodes)
    engine.close()


def test_where_no_node_is_found_nobody_is_asked(doubting, documents, llm):
    kitchen = MetadataFilters(filters=[MetadataFilter(key="team", value="nobody")])
    engine = MemRecallQueryEngine.from_documents(documents, memory=doubting, llm=llm, top_k=2, filters=kitchen)
    assert engine.query(QUESTION).response == doubting.config.reasoner.not_found
    assert llm.prompts == []
    engine.close()


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


def test_an_unknown_response_mode_is_refused_before_anything_is_compressed(memory, documents, monkeypatch):
    compressed = []
    monkeypatch.setattr(type(memory), "ingest", lambda *args, **kwargs: compressed.append(args))
    with pytest.raises(InputError, match=r"tree_summarize.*typo"):
        MemRecallQueryEngine.from_documents(documents, memory=memory, response_mode="typo")
    assert compressed == []


@pytest.mark.parametrize("mode", ["tree_summarize", ResponseMode.ACCUMULATE, "simple_summarize", "compact_accumulate"])
async def test_other_response_modes_are_the_hosts(scripted, documents, llm, mode):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=2, llm=llm, response_mode=mode)
    response = engine.query(QUESTION)
    assert "Dana says yes." in response.response
    assert response.source_nodes == engine.retrieve(QUESTION)
    assert all(any(source.text in prompt for prompt in llm.prompts) for source in response.source_nodes)
    assert (await engine.aquery(QUESTION)).response == response.response
    engine.close()


def test_without_an_llm_other_response_modes_are_written_by_the_backbone(documents):
    roomy = tiny_memory(backbone=tiny_backbone(window=16384))
    engine = MemRecallQueryEngine.from_documents(documents, memory=roomy, top_k=2, response_mode="simple_summarize")
    assert engine.query(QUESTION).response
    assert Settings._llm is None
    engine.close()


class KeepsLast(BaseNodePostprocessor):
    """Keeps one node."""

    def _postprocess_nodes(self, nodes, query_bundle=None):
        return nodes[-1:]


class Covers(BaseNodePostprocessor):
    """Covers up a name, in the node that was handed in."""

    def _postprocess_nodes(self, nodes, query_bundle=None):
        for node in nodes:
            node.node.set_content(node.text.replace("Dana", "X"))
        return nodes


class Turns(BaseNodePostprocessor):
    """Changes the order."""

    def _postprocess_nodes(self, nodes, query_bundle=None):
        return nodes[::-1]


@pytest.mark.parametrize("with_llm", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
async def test_postprocessors_decide_what_is_answered_from(scripted, documents, llm, with_llm, streaming):
    engine = MemRecallQueryEngine.from_documents(
        documents,
        memory=scripted,
        top_k=4,
        node_postprocessors=[KeepsLast()],
        llm=llm if with_llm else None,
        streaming=streaming,
    )
    (last,) = engine.retrieve(QUESTION)
    for response in (engine.query(QUESTION), await engine.aquery(QUESTION)):
        assert ids(response.source_nodes) == [last.node_id]
        assert list(response.metadata) == [last.node_id]
    others = {document.text for document in documents} - {last.text}
    assert not any(text in prompt for text in others for prompt in llm.prompts)
    engine.close()


@pytest.mark.parametrize("with_llm", [False, True])
def test_what_a_postprocessor_covers_up_is_not_read_by_way_of_blocks_or_notes(documents, llm, with_llm):
    read = []

    class Reading(ScriptedReasoner):
        def answer(self, question, notes, recalls, *args):
            read.extend([notes.text, *(recall.text for recall in recalls)])
            return super().answer(question, notes, recalls, *args)

    memory = tiny_memory(reasoner=Reading({"Dana approves trips.": "Dana approves."}, lambda *_: "X does."))
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=memory, top_k=4, node_postprocessors=[Covers()], llm=llm if with_llm else None
    )
    response = engine.query(QUESTION)
    assert "X approves trips." in {source.text for source in response.source_nodes}
    assert read if not with_llm else llm.prompts
    assert not any("Dana" in text for text in (*read, *llm.prompts))
    engine.close()


def test_an_order_that_a_postprocessor_changes_costs_no_second_walk(scripted, documents, compressions):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=4, node_postprocessors=[Turns()])
    compressions.clear()
    response = engine.query(QUESTION)
    assert response.response == "Dana Whitfield does."
    opened = [step["chunk_id"] for step in response.metadata["trace"] if step["opened"]]
    assert ids(response.source_nodes) == opened[::-1]
    assert compressions == []
    engine.close()


async def test_a_synthesizer_of_the_host_writes_what_it_is_given(scripted, documents, llm):
    synthesizer = get_response_synthesizer(llm=llm, response_mode=ResponseMode.TREE_SUMMARIZE)
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=2, response_synthesizer=synthesizer)
    for response in (engine.query(QUESTION), await engine.aquery(QUESTION)):
        assert response.response == "Dana says yes."
        assert len(response.source_nodes) == 2
        assert response.metadata["usage"]["blocks_opened"] == 2
    engine.close()


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
        assert response.source_nodes[0].metadata == {}
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
