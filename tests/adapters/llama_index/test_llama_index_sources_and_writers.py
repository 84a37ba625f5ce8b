"""Where the query engine gets its nodes from, and who writes its answers."""

import asyncio

import pytest
from llama_index.core import Settings, StorageContext, SummaryIndex, VectorStoreIndex
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
    TokenCountingHandler,
)
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from memrecall_kv.errors import InputError
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from pydantic import Field

from llama_index_memrecall import MemRecallQueryEngine

QUESTION = "Who approves trips?"


class ScriptedLLM(CustomLLM):
    """Writes three pieces and keeps what it was asked."""

    asked: list = Field(default_factory=list)
    reply: list = Field(default_factory=lambda: ["Dana ", "Whitfield ", "does."])

    @property
    def metadata(self):
        return LLMMetadata(model_name="scripted")

    def complete(self, prompt, formatted=False, **kwargs):
        self.asked.append(prompt)
        return CompletionResponse(text="".join(self.reply))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        self.asked.append(prompt)

        def pieces():
            text = ""
            for piece in self.reply:
                text += piece
                yield CompletionResponse(text=text, delta=piece)

        return pieces()


@pytest.fixture
def llm():
    return ScriptedLLM()


@pytest.fixture
def index(nodes):
    return VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))


def ids(nodes):
    return [node.node_id for node in nodes]


def test_an_index_gives_its_nodes(memory, index, nodes):
    engine = MemRecallQueryEngine.from_index(index, memory=memory, top_k=9)
    assert sorted(ids(engine.retrieve(QUESTION))) == sorted(ids(nodes))
    assert set(ids(engine.query(QUESTION).source_nodes)) == set(ids(nodes))
    engine.close()


def test_an_index_gives_its_own_nodes_alone(memory, nodes):
    storage = StorageContext.from_defaults()
    kept = VectorStoreIndex(nodes[:2], storage_context=storage, embed_model=MockEmbedding(embed_dim=4))
    other = SummaryIndex(nodes[2:], storage_context=storage)
    for index, expected in ((kept, nodes[:2]), (other, nodes[2:])):
        engine = MemRecallQueryEngine.from_index(index, memory=memory, top_k=9)
        assert sorted(ids(engine.retrieve(QUESTION))) == sorted(ids(expected))
        engine.close()


def test_an_index_without_texts_is_refused(memory, nodes):
    class Storing(SimpleVectorStore):
        stores_text: bool = True

    storage = StorageContext.from_defaults(vector_store=Storing())
    index = VectorStoreIndex(nodes, storage_context=storage, embed_model=MockEmbedding(embed_dim=4))
    with pytest.raises(InputError, match="from_args"):
        MemRecallQueryEngine.from_index(index, memory=memory)


def test_a_retriever_proposes_and_memory_recalls_among_it(memory, index, nodes):
    retriever = index.as_retriever(similarity_top_k=3)
    proposed = set(ids(retriever.retrieve(QUESTION)))
    engine = MemRecallQueryEngine.from_args(retriever, memory=memory, top_k=2)
    sources = engine.query(QUESTION).source_nodes
    assert len(sources) == 2
    assert set(ids(sources)) < proposed
    for source in sources:
        original = next(node for node in nodes if node.node_id == source.node_id)
        assert source.get_content() == original.get_content()
        assert "recall_step" in source.metadata
        assert "recall_step" not in original.metadata
    assert ids(engine.retrieve(QUESTION)) == ids(sources)
    engine.close()


async def test_the_async_route_asks_the_retriever_in_its_own_way(memory, index):
    retriever = index.as_retriever(similarity_top_k=3)
    engine = MemRecallQueryEngine.from_args(retriever, memory=memory, top_k=2)
    expected = engine.query(QUESTION)
    response = await engine.aquery(QUESTION)
    assert (str(response), response.source_nodes) == (str(expected), expected.source_nodes)
    assert await engine.aretrieve(QUESTION) == engine.retrieve(QUESTION)
    engine.close()


def test_filters_hold_for_what_a_retriever_proposes(memory, index):
    filters = MetadataFilters(filters=[MetadataFilter(key="team", value="kitchen")])
    retriever = index.as_retriever(similarity_top_k=4)
    engine = MemRecallQueryEngine.from_args(retriever, memory=memory, top_k=4, filters=filters)
    assert ids(engine.retrieve(QUESTION)) == ["node-lunch"]
    engine.close()


def test_a_node_that_is_proposed_again_is_not_compressed_again(index):
    memory = tiny_memory()
    compressed = []
    compress = memory._parts.compressor.compress
    memory._parts.compressor.compress = lambda chunks: compressed.extend(chunks) or compress(chunks)
    engine = MemRecallQueryEngine.from_args(index.as_retriever(similarity_top_k=3), memory=memory, top_k=1)
    engine.query(QUESTION)
    assert len(compressed) == 3
    engine.query("When is lunch?")
    assert len(compressed) <= 4  # at most the one that was not proposed before
    engine.close()


def test_a_retriever_that_finds_nothing_gives_the_not_found_answer(memory, index):
    empty = VectorStoreIndex([], embed_model=MockEmbedding(embed_dim=4)).as_retriever()
    engine = MemRecallQueryEngine.from_args(empty, memory=memory)
    response = engine.query(QUESTION)
    assert (response.response, response.source_nodes) == (memory.config.reasoner.not_found, [])
    engine.close()


async def test_nodes_can_be_given_to_synthesize(memory, nodes):
    engine = MemRecallQueryEngine.from_nodes([], memory=memory, top_k=1)
    scored = [NodeWithScore(node=node) for node in nodes[:2]]
    more = [NodeWithScore(node=nodes[3], score=0.5)]
    response = engine.synthesize(QueryBundle(QUESTION), scored, additional_source_nodes=more)
    assert len(response.source_nodes) == 2
    assert response.source_nodes[0].node_id in ids(nodes[:2])
    assert response.source_nodes[1] == more[0]
    again = await engine.asynthesize(QueryBundle(QUESTION), scored)
    assert (str(again), again.source_nodes) == (str(response), response.source_nodes[:1])
    engine.close()


def test_an_llm_writes_from_texts_and_notes(scripted, documents, llm):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=4, llm=llm)
    response = engine.query(QUESTION)
    assert response.response == "Dana Whitfield does."
    (prompt,) = llm.asked
    assert QUESTION in prompt
    assert "Dana approves." in prompt  # the note
    assert all(source.get_content() in prompt for source in response.source_nodes)
    assert Settings._llm is None
    engine.close()


async def test_an_llm_writes_in_every_route(scripted, documents, llm):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=1, llm=llm)
    assert str(await engine.aquery(QUESTION)) == "Dana Whitfield does."
    engine.close()
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=1, llm=llm, streaming=True)
    response = engine.query(QUESTION)
    assert isinstance(response, StreamingResponse)
    assert "".join(response.response_gen) == "Dana Whitfield does."
    response = await engine.aquery(QUESTION)
    assert isinstance(response, AsyncStreamingResponse)
    assert "".join([piece async for piece in response.async_response_gen()]) == "Dana Whitfield does."
    assert len(llm.asked) == 3
    engine.close()


def test_an_llm_is_not_asked_about_nothing(open_only, documents, llm):
    memory = open_only(999)
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, llm=llm)
    assert engine.query(QUESTION).response == memory.config.reasoner.not_found
    assert llm.asked == []
    engine.close()


def test_the_prompt_of_an_llm_can_be_replaced(memory, documents, llm):
    template = PromptTemplate("CONTEXT {context_str} ASKED {query_str}")
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=1, llm=llm, text_qa_template=template)
    engine.query(QUESTION)
    assert llm.asked[-1].startswith("CONTEXT [1] ")
    engine.update_prompts({"text_qa_template": PromptTemplate("{query_str}!")})
    assert engine.get_prompts()["text_qa_template"].template == "{query_str}!"
    engine.query(QUESTION)
    assert llm.asked[-1] == f"{QUESTION}!"
    with pytest.raises(InputError, match="refine_template"):
        engine.update_prompts({"refine_template": template})
    engine.close()
    with pytest.raises(InputError, match="llm="):
        MemRecallQueryEngine(None, memory=memory, text_qa_template=template)


@pytest.mark.parametrize("mode", ["compact", "refine"])
def test_modes_that_read_piece_by_piece_are_what_recall_does(scripted, documents, mode):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=2, response_mode=mode)
    assert engine.query(QUESTION).response == "Dana Whitfield does."
    engine.close()


@pytest.mark.parametrize("streaming", [False, True])
def test_modes_without_an_answer_give_what_was_recalled(documents, streaming):
    def refuse(question, notes):
        raise AssertionError("the reasoner was asked")

    memory = tiny_memory(reasoner=ScriptedReasoner({}, refuse))
    options = {"memory": memory, "top_k": 2, "streaming": streaming}
    engine = MemRecallQueryEngine.from_documents(documents, response_mode="no_text", **options)
    response = engine.query(QUESTION)
    assert ("".join(response.response_gen) if streaming else response.response) == ""
    assert len(response.source_nodes) == 2
    assert response.metadata["usage"]["blocks_opened"] == 2
    engine.close()
    engine = MemRecallQueryEngine.from_documents(documents, response_mode="context_only", **options)
    again = engine.query(QUESTION)
    text = "".join(again.response_gen) if streaming else again.response
    assert all(source.get_content() in text for source in again.source_nodes)
    assert again.source_nodes == response.source_nodes
    engine.close()


@pytest.mark.parametrize("mode", ["tree_summarize", "simple_summarize", "generation", "accumulate", "nonsense"])
def test_other_modes_are_refused(memory, mode):
    with pytest.raises(InputError, match=mode):
        MemRecallQueryEngine(None, memory=memory, response_mode=mode)


async def test_the_hosts_token_counter_counts_what_the_reasoner_read_and_wrote(memory, documents, event_log):
    counter, debug = TokenCountingHandler(), LlamaDebugHandler(print_trace_on_end=False)
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=memory, top_k=2, callback_manager=CallbackManager([counter, debug])
    )
    usage = engine.query(QUESTION).metadata["usage"]
    assert usage["generated_tokens"] > 0
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["generated_tokens"]
    await engine.aquery(QUESTION)
    assert counter.completion_llm_token_count == 2 * usage["generated_tokens"]
    (_, end), _ = debug.get_event_pairs(CBEventType.LLM)
    assert str(end.payload[EventPayload.RESPONSE].message.content)
    assert event_log.names().count("LLMChatStartEvent") == event_log.names().count("LLMChatEndEvent") == 2
    engine.close()


class Splitter(BaseQuestionGenerator):
    """Asks every tool the same question."""

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def generate(self, tools, query):
        return [SubQuestion(sub_question=query.query_str, tool_name=tool.name) for tool in tools]

    async def agenerate(self, tools, query):
        return self.generate(tools, query)


def tools(memory, documents):
    finance = MemRecallQueryEngine.from_documents(documents[:2], memory=memory, top_k=1)
    house = MemRecallQueryEngine.from_documents(documents[2:], memory=memory, top_k=1)
    return [
        QueryEngineTool.from_defaults(finance, name="finance", description="Trips and limits."),
        QueryEngineTool.from_defaults(house, name="house", description="Lunch and lift."),
    ]


async def test_a_router_of_the_host_routes_to_it(scripted, documents):
    selector = EmbeddingSingleSelector.from_defaults(embed_model=MockEmbedding(embed_dim=4))
    router = RouterQueryEngine(selector, tools(scripted, documents), llm=ScriptedLLM(), summarizer=object())
    for response in (router.query(QUESTION), await router.aquery(QUESTION)):
        assert response.response == "Dana Whitfield does."
        assert response.source_nodes
        assert "selector_result" in response.metadata


async def test_a_sub_question_engine_of_the_host_asks_it(scripted, documents, llm):
    synthesizer = get_response_synthesizer(llm=llm, response_mode="compact")
    engine = SubQuestionQueryEngine(Splitter(), synthesizer, tools(scripted, documents), use_async=False, verbose=False)
    response = engine.query(QUESTION)
    assert isinstance(response, Response)
    assert "Dana Whitfield does." in llm.asked[-1]
    recalled = {source.node.ref_doc_id for source in response.source_nodes}
    assert recalled & {"travel", "limits"}
    assert recalled & {"lunch", "lift"}
    assert str(await engine.aquery(QUESTION))


async def test_eight_questions_at_once_do_not_block_the_loop(memory, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=2)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    answers = await asyncio.gather(*(engine.aquery(QUESTION) for _ in range(8)))
    ticking.cancel()
    assert len({str(answer) for answer in answers}) == 1
    assert ticks > 8
    engine.close()


def test_two_engines_a_retriever_and_a_postprocessor_load_one_model(checkpoint, documents):
    from memrecall_kv.models import load_backbone

    from llama_index_memrecall import MemRecallPostprocessor

    engines = [MemRecallQueryEngine.from_documents(documents, name_or_path=checkpoint) for _ in range(2)]
    postprocessor = MemRecallPostprocessor(top_n=1, name_or_path=checkpoint)
    postprocessor.postprocess_nodes([NodeWithScore(node=TextNode(text="Dana."))], query_str=QUESTION)
    backbone = load_backbone(checkpoint)
    assert all(engine._source.memory.get().backbone is backbone for engine in engines)
    assert postprocessor._memory.get().backbone is backbone
    for engine in engines:
        engine.close()
