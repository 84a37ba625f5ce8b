import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolCall
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from memrecall_kv.errors import InputError

from langchain_memrecall import MemRecallRetriever, MemRecallRunnable, create_memrecall_tool

QUESTION = "Who approves trips?"


@pytest.fixture(params=["retriever", "runnable"])
def tool(request, scripted, bank):
    if request.param == "retriever":
        return create_memrecall_tool(MemRecallRetriever(bank=bank, memory=scripted, k=2))
    return create_memrecall_tool(MemRecallRunnable(bank=bank, memory=scripted, top_k=2))


class _Given:
    @pytest.fixture(autouse=True)
    def _made(self, scripted, bank):
        self.made = create_memrecall_tool(MemRecallRetriever(bank=bank, memory=scripted, k=2))

    @property
    def tool_constructor(self):
        return self.made

    @property
    def tool_invoke_params_example(self):
        return {"question": QUESTION}


class TestUnit(_Given, ToolsUnitTests):
    pass


class TestIntegration(_Given, ToolsIntegrationTests):
    pass


def call(question=QUESTION):
    return ToolCall(name="recall", args={"question": question}, id="1", type="tool_call")


def test_the_message_is_what_was_recalled_and_the_artifact_the_documents(scripted, bank):
    retriever = MemRecallRetriever(bank=bank, memory=scripted, k=2)
    message = create_memrecall_tool(retriever).invoke(call())
    found = retriever.invoke(QUESTION)
    assert message.artifact == found
    assert message.content == "\n\n".join(f"[{document.id}] {document.page_content}" for document in found)


def test_of_a_runnable_the_message_is_the_answer_with_its_sources(scripted, bank):
    message = create_memrecall_tool(MemRecallRunnable(bank=bank, memory=scripted, top_k=2)).invoke(call())
    ids = [document.id for document in message.artifact["context"]]
    assert message.content == f"Dana Whitfield does.\n\nSources: {', '.join(ids)}"
    assert message.artifact["usage"]["blocks_opened"] == 2


async def test_the_async_route_says_the_same(tool):
    assert (await tool.ainvoke(call())).content == tool.invoke(call()).content


def test_nothing_found_is_said_in_words(scripted, bank):
    nowhere = {"team": "nobody"}
    found = create_memrecall_tool(MemRecallRetriever(bank=bank, memory=scripted, filter=nowhere)).invoke(call())
    assert (found.content, found.artifact) == ("Nothing was found.", [])
    answered = create_memrecall_tool(MemRecallRunnable(bank=bank, memory=scripted, filter=nowhere)).invoke(call())
    assert answered.content == scripted.config.reasoner.not_found


class Parents(BaseCallbackHandler):
    def __init__(self):
        self.tool, self.below = None, []

    def on_tool_start(self, serialized, input_str, *, run_id, **kwargs):
        self.tool = run_id

    def on_retriever_start(self, serialized, query, *, parent_run_id, **kwargs):
        self.below.append(parent_run_id)

    def on_chain_start(self, serialized, inputs, *, parent_run_id, **kwargs):
        self.below.append(parent_run_id)


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_recalls_is_a_run_below_the_tools(tool, is_async):
    parents = Parents()
    config = {"callbacks": [parents]}
    await tool.ainvoke(call(), config) if is_async else tool.invoke(call(), config)
    assert parents.below[0] == parents.tool is not None


def test_the_model_is_told_of_one_argument(tool):
    named = create_memrecall_tool(MemRecallRunnable(bank="nowhere"), name="handbook", description="Knows the rules.")
    assert (named.name, named.description) == ("handbook", "Knows the rules.")
    assert list(named.args) == list(tool.args) == ["question"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("arguments", [{"question": ""}, {"question": " \n"}, {}, {"question": ["Who?"]}])
async def test_a_mistake_of_the_model_is_a_message_to_it(tool, arguments, is_async):
    asked = ToolCall(name="recall", args=arguments, id="1", type="tool_call")
    message = await tool.ainvoke(asked) if is_async else tool.invoke(asked)
    assert (message.status, message.artifact) == ("error", None)
    assert "question" in message.content or "validation" in message.content


@pytest.mark.parametrize("kind", [MemRecallRetriever, MemRecallRunnable])
def test_an_error_of_ours_is_a_message_and_another_is_not(scripted, bank, tmp_path, kind, monkeypatch):
    tool = create_memrecall_tool(kind(bank=tmp_path / "nowhere", memory=scripted))
    message = tool.invoke(call())
    assert message.status == "error"
    assert "is no memory bank" in message.content
    monkeypatch.setattr(type(scripted), "begin", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        create_memrecall_tool(kind(bank=bank, memory=scripted)).invoke(call())


def test_a_tool_needs_something_that_recalls_from_a_bank():
    with pytest.raises(InputError, match="MemRecallRetriever"):
        create_memrecall_tool(lambda question: question)
    with pytest.raises(InputError, match="got one without a bank"):
        create_memrecall_tool(MemRecallRunnable())


def test_as_tool_makes_the_same_tool_of_a_runnable(scripted, bank):
    ask = MemRecallRunnable(bank=bank, memory=scripted, top_k=2)
    tool = ask.as_tool(name="handbook", description="Knows the rules.")
    assert (tool.name, tool.description) == ("handbook", "Knows the rules.")
    assert tool.invoke(call()).content == create_memrecall_tool(ask).invoke(call()).content
    assert ask.as_tool().invoke({"question": QUESTION}).startswith("Dana Whitfield does.")


async def test_the_loop_goes_on_while_the_gate_reads(documents, waiting, meanwhile, tmp_path):
    retriever = MemRecallRetriever.from_documents(documents, bank=tmp_path / "bank", memory=waiting[0], k=1)
    assert (await meanwhile(create_memrecall_tool(retriever).ainvoke(call()))).artifact
    retriever.close()
