"""The ways of LlamaIndex that lead to this package: routers, sub-questions, agents, evaluation, many at once."""

import asyncio
import json
import threading

import pytest
from llama_index.core import Settings, VectorStoreIndex, get_response_synthesizer
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.llms import ChatMessage
from llama_index.core.query_engine import RetrieverQueryEngine, RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import IndexNode
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolSelection
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from patience import PATIENCE

from llama_index_memrecall import MemRecallPostprocessor, MemRecallQueryEngine, MemRecallRetriever

QUESTION = "Who approves trips?"


def ids(nodes):
    return [node.node_id for node in nodes]


@pytest.fixture
def tools(scripted, documents):
    engines = [
        MemRecallQueryEngine.from_documents(part, memory=scripted, top_k=2) for part in (documents[:2], documents[2:])
    ]
    yield [
        QueryEngineTool.from_defaults(engine, name=name, description=f"Answers about {name}.")
        for engine, name in zip(engines, ("travel", "house"), strict=True)
    ]
    for engine in engines:
        engine.close()


async def test_a_router_sends_questions_to_us(tools, llm):
    llm.words = [json.dumps([{"choice": 2, "reason": "It is about the house."}])]
    router = RouterQueryEngine(LLMSingleSelector.from_defaults(llm), tools, llm=llm)
    for response in (router.query("When is lunch?"), await router.aquery("When is lunch?")):
        assert response.response == "Dana Whitfield does."
        assert {source.node.ref_doc_id for source in response.source_nodes} == {"lunch", "lift"}


def test_a_router_combines_two_of_us(tools, llm):
    llm.words = [json.dumps([{"choice": number, "reason": "Both."} for number in (1, 2)])]
    router = RouterQueryEngine(LLMMultiSelector.from_defaults(llm), tools, llm=llm)
    response = router.query(QUESTION)
    assert {source.node.ref_doc_id for source in response.source_nodes} == {"travel", "limits", "lunch", "lift"}


@pytest.mark.parametrize("use_async", [False, True])
def test_sub_questions_are_answered_by_us(tools, llm, use_async):
    asked = [{"sub_question": QUESTION, "tool_name": "travel"}, {"sub_question": "When?", "tool_name": "house"}]
    llm.words = [json.dumps(asked)]
    engine = SubQuestionQueryEngine(
        LLMQuestionGenerator.from_defaults(llm),
        get_response_synthesizer(llm=llm, response_mode=ResponseMode.COMPACT),
        tools,
        verbose=False,
        use_async=use_async,
    )
    response = engine.query("Who approves trips, and when is lunch?")
    answered = [source.text for source in response.source_nodes if source.text.startswith("Sub question")]
    assert sum("Dana Whitfield does." in text for text in answered) == 2
    found = {source.node.ref_doc_id for source in response.source_nodes}
    assert {"travel", "limits", "lunch", "lift"} <= found


async def test_the_postprocessor_works_behind_a_retriever_of_ours_or_of_the_host(memory, nodes, llm):
    retriever = MemRecallRetriever.from_nodes(nodes, memory=memory, top_k=4)
    gate = MemRecallPostprocessor(memory=memory, top_n=2, working_memory=True)
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, node_postprocessors=[gate])
    for response in (engine.query(QUESTION), await engine.aquery(QUESTION)):
        assert response.response == "Dana says yes."
        recalled = [source for source in response.source_nodes if source.node_id.startswith("node-")]
        assert len(recalled) == 2
    retriever.close()
    gate.close()


def test_an_engine_of_ours_can_be_one_node_of_a_larger_index(scripted, documents, memory):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=1)
    node = IndexNode(id_="handbook", text="What the handbook says.", index_id="handbook")
    outer = MemRecallRetriever.from_nodes([node], memory=memory, object_map={"handbook": engine})
    hosts = VectorStoreIndex(
        objects=[node.model_copy(update={"obj": engine})], embed_model=MockEmbedding(embed_dim=4)
    ).as_retriever(similarity_top_k=1)
    for retriever in (outer, hosts):
        (found,) = retriever.retrieve(QUESTION)
        assert found.text == "Dana Whitfield does."
    outer.close()
    engine.close()


async def test_the_hosts_retriever_evaluation_finds_stable_ids(memory, nodes):
    retriever = MemRecallRetriever.from_nodes(nodes, memory=memory, top_k=4)
    evaluator = RetrieverEvaluator.from_metric_names(["hit_rate", "mrr", "precision", "recall"], retriever=retriever)
    result = evaluator.evaluate(QUESTION, expected_ids=["node-travel"])
    rank = 1 + ids(retriever.retrieve(QUESTION)).index("node-travel")
    assert result.metric_vals_dict == {"hit_rate": 1.0, "mrr": 1 / rank, "precision": 0.25, "recall": 1.0}
    assert (await evaluator.aevaluate(QUESTION, expected_ids=["node-lunch"])).metric_vals_dict["recall"] == 1.0
    retriever.close()


# LlamaIndex 0.14.25 reads the fields of its own agent in a way that pydantic deprecates.
@pytest.mark.filterwarnings(
    "ignore:The `__fields:DeprecationWarning", "ignore:Accessing the 'model_:DeprecationWarning"
)
async def test_an_agent_calls_us_as_a_tool_and_the_sources_survive(tools, llm_with_tools):
    agent = FunctionAgent(tools=tools[:1], llm=llm_with_tools, streaming=False)
    handler = agent.run(QUESTION)
    results = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
    assert str(await handler) == "The handbook says: Dana Whitfield does."
    (called,) = results
    assert called.tool_name == "travel"
    assert {source.node.ref_doc_id for source in called.tool_output.raw_output.source_nodes} == {"travel", "limits"}


@pytest.fixture
def llm_with_tools():
    mock = pytest.importorskip("llama_index.core.llms.mock")
    if not hasattr(mock, "MockFunctionCallingLLM"):
        pytest.skip("this LlamaIndex has no mock of a function-calling LLM")

    def reply(messages, **kwargs):
        if messages[-1].role == "tool":
            return ChatMessage(role="assistant", content=f"The handbook says: {messages[-1].content}")
        call = ToolSelection(tool_id="1", tool_name="travel", tool_kwargs={"input": QUESTION})
        return ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})

    return mock.MockFunctionCallingLLM(response_generator=reply)


async def test_a_retriever_of_ours_is_a_tool(memory, nodes):
    retriever = MemRecallRetriever.from_nodes(nodes, memory=memory, top_k=1)
    tool = RetrieverTool.from_defaults(retriever, name="lookup", description="Looks things up.")
    output = await tool.acall(QUESTION)
    assert ids(output.raw_output) == ids(retriever.retrieve(QUESTION))
    assert output.raw_output[0].text in output.content
    retriever.close()


async def test_eight_questions_at_once_do_not_block_the_loop_and_get_their_own_answers(documents):
    entered, go, here = threading.Event(), threading.Event(), threading.get_ident()
    threads = set()

    def reply(question, notes):
        entered.set()
        threads.add(threading.get_ident())
        assert go.wait(PATIENCE)
        return f"Answer to {question}"

    memory = tiny_memory(reasoner=ScriptedReasoner({}, reply))
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=2)
    questions = [f"Question {number}?" for number in range(8)]
    tasks = [asyncio.create_task(engine.aquery(question)) for question in questions]
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    assert not any(task.done() for task in tasks)
    go.set()
    assert [str(response) for response in await asyncio.gather(*tasks)] == [f"Answer to {q}" for q in questions]
    assert here not in threads
    assert Settings._llm is None
    engine.close()


async def test_the_first_token_comes_before_the_last_is_made_and_leaving_frees_the_model(documents):
    made = []

    class Slow(ScriptedReasoner):
        def answer(self, *args):
            for number in range(200):
                made.append(number)
                yield f"word{number} and some more of it "

    memory = tiny_memory(reasoner=Slow({}, lambda question, notes: ""))
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=2, streaming=True)
    response = engine.query(QUESTION)
    assert "word0" in next(response.response_gen)
    assert len(made) < 5
    response.response_gen.close()
    assert is_free(memory.backbone.scheduler)
    stopped = len(made)
    asynchronous = await engine.aquery(QUESTION)
    assert "word0" in await anext(asynchronous.response_gen)
    await asynchronous.response_gen.aclose()
    assert stopped < 5
    assert await asyncio.to_thread(is_free, memory.backbone.scheduler)
    engine.close()


def is_free(scheduler):
    taken = threading.Event()
    threading.Thread(target=scheduler.call, args=(taken.set,)).start()
    return taken.wait(PATIENCE)
