"""An agent of LangChain's with a scripted model, whose memory is ours."""

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from memrecall_kv.errors import FingerprintMismatchError, InputError
from memrecall_kv.testing import ScriptedReasoner, tiny_backbone, tiny_memory

from langchain_memrecall import MemRecallMiddleware, MemRecallRetriever, MemRecallStore, create_memrecall_tool

CALL = AIMessage("", tool_calls=[{"name": "recall", "args": {"question": "Who?"}, "id": "1", "type": "tool_call"}])


class Scripted(BaseChatModel):
    """Says its lines one after the other and keeps what it was shown."""

    lines: list = []  # noqa: RUF012 - pydantic copies it
    shown: list = []  # noqa: RUF012

    @property
    def _llm_type(self):
        return "scripted"

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.shown.append(messages)
        line = self.lines[len(self.shown) - 1] if len(self.shown) <= len(self.lines) else "Noted."
        message = line if isinstance(line, AIMessage) else AIMessage(line)
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture(scope="module")
def memory():
    return tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: ""))


@pytest.fixture
def middleware(memory, tmp_path):
    made = MemRecallMiddleware(tmp_path / "chats", memory=memory, keep_turns=1, top_k=1)
    yield made
    made.close()


def say(agent, text, thread="1"):
    config = {"configurable": {"thread_id": thread}}
    return agent.invoke({"messages": [HumanMessage(text)]}, config)


def system(shown):
    return "".join(message.text for message in shown if isinstance(message, SystemMessage))


def told_of(shown):
    """What the model reads of what was said earlier."""
    return "".join(message.text for message in shown if message.additional_kwargs.get("lc_source") == "memrecall")


def said(shown):
    """The texts of the users' messages that a model is shown."""
    return [m.text for m in shown if isinstance(m, HumanMessage) and "lc_source" not in m.additional_kwargs]


def stored(middleware):
    return [document.text for document in middleware._bank.get().documents()]


def test_an_earlier_turn_is_recalled_and_no_longer_shown_word_for_word(middleware):
    model = Scripted(lines=["Hello Ada.", "Blue."], shown=[])
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver(), system_prompt="Be brief.")
    say(agent, "My name is Ada.")
    result = say(agent, "Which colour?")
    assert system(model.shown[0]) == "Be brief."
    told = told_of(model.shown[1])
    assert told.startswith("Said earlier")
    assert "User: My name is Ada.\nAssistant: Hello Ada." in told
    assert [message.text for message in model.shown[1]] == ["Be brief.", told, "Which colour?"]
    assert isinstance(model.shown[1][1], HumanMessage)  # what a user said has no more rank than a user
    assert len(result["messages"]) == 4  # the state keeps all
    assert "memrecall_recalled" not in result


async def test_the_async_agent_does_the_same(middleware):
    model = Scripted(lines=["Hello Ada."], shown=[])
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    await agent.ainvoke({"messages": [HumanMessage("My name is Ada.")]}, config)
    await agent.ainvoke({"messages": [HumanMessage("Who am I?")]}, config)
    assert "My name is Ada." in told_of(model.shown[1])
    assert told_of(model.shown[0]) == ""


def test_turns_that_are_shown_are_not_recalled_as_well(memory, tmp_path):
    middleware = MemRecallMiddleware(tmp_path / "chats", memory=memory, keep_turns=2, top_k=9)
    model = Scripted(shown=[])
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    for text in ("First.", "Second.", "Third.", "Fourth."):
        say(agent, text)
    assert told_of(model.shown[1]) == ""
    told = told_of(model.shown[3])
    assert said(model.shown[3]) == ["Third.", "Fourth."]
    assert told.index("First.") < told.index("Second.")  # in the order they were said
    assert "Third." not in told
    middleware.close()


def test_a_tools_answer_is_never_shown_without_its_call(middleware):
    model = Scripted(lines=["Hello.", CALL, "Dana does."], shown=[])

    def recall(question: str) -> str:
        """Recall."""
        return "Dana."

    agent = create_agent(model, [recall], middleware=[middleware], checkpointer=InMemorySaver())
    say(agent, "My name is Ada.")
    say(agent, "Who approves?")
    kinds = [type(message) for message in model.shown[2] if "lc_source" not in message.additional_kwargs]
    assert kinds == [HumanMessage, AIMessage, ToolMessage]
    assert "My name is Ada." in told_of(model.shown[2])  # in every model call of the turn


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_agent_has_our_tool_and_our_memory_at_once(middleware, memory, bank, is_async):
    model = Scripted(lines=["Hello Ada.", CALL, "Dana does."], shown=[])
    tool = create_memrecall_tool(MemRecallRetriever(bank=bank, memory=memory, k=2))
    agent = create_agent(model, [tool], middleware=[middleware], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    for text in ("My name is Ada.", "Who approves my trips?"):
        given = {"messages": [HumanMessage(text)]}
        result = await agent.ainvoke(given, config) if is_async else agent.invoke(given, config)
    (answered,) = [message for message in result["messages"] if isinstance(message, ToolMessage)]
    last = model.shown[-1]
    assert "My name is Ada." in told_of(last)
    assert len(answered.artifact) == 2
    assert answered.artifact[0].page_content in last[-1].text
    assert result["messages"][-1].text == "Dana does."


def test_two_conversations_do_not_hear_of_each_other(middleware):
    model = Scripted(shown=[])
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    say(agent, "My secret is plum.", thread="ada")
    say(agent, "Tell me.", thread="bo")
    say(agent, "Tell me.", thread="bo")
    assert not any("plum" in told_of(shown) for shown in model.shown)
    say(agent, "Tell me.", thread="ada")
    assert "plum" in told_of(model.shown[-1])


def test_one_user_is_remembered_in_a_new_conversation_and_after_a_restart(memory, tmp_path):
    def agent_of(model):
        middleware = MemRecallMiddleware(tmp_path / "chats", memory=memory, scope="user_id", top_k=1)
        return create_agent(model, middleware=[middleware], checkpointer=InMemorySaver()), middleware

    for thread, text in (("1", "My name is Ada."), ("2", "Who am I?")):
        model = Scripted(shown=[])
        agent, middleware = agent_of(model)
        agent.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": thread, "user_id": "ada"}})
        middleware.close()
    assert "My name is Ada." in told_of(model.shown[0])


def test_without_a_scope_there_is_one_memory_for_all(memory):
    middleware = MemRecallMiddleware(memory=memory, scope=None, top_k=1)
    model = Scripted(shown=[])
    agent = create_agent(model, middleware=[middleware])
    agent.invoke({"messages": [HumanMessage("My name is Ada.")]})
    agent.invoke({"messages": [HumanMessage("Who am I?")]})
    assert "My name is Ada." in told_of(model.shown[1])
    middleware.close()


def test_a_run_that_does_not_say_whose_it_is_is_refused(middleware):
    agent = create_agent(Scripted(shown=[]), middleware=[middleware])
    with pytest.raises(InputError, match="thread_id"):
        agent.invoke({"messages": [HumanMessage("My name is Ada.")]})


def test_forgetting_a_conversation_leaves_the_others(middleware):
    model = Scripted(shown=[])
    agent = create_agent(model, middleware=[middleware], checkpointer=InMemorySaver())
    say(agent, "My secret is plum.", thread="ada")
    say(agent, "My secret is fig.", thread="bo")
    assert middleware.forget("ada") == 1
    say(agent, "Tell me.", thread="ada")
    assert told_of(model.shown[-1]) == ""
    say(agent, "Tell me.", thread="bo")
    assert "fig" in told_of(model.shown[-1])


def test_a_turn_is_compressed_once(middleware, compressions):
    agent = create_agent(Scripted(shown=[]), middleware=[middleware], checkpointer=InMemorySaver())
    for text in ("One.", "Two.", "Three."):
        say(agent, text)
    assert compressions == [f"User: {n}.\nAssistant: Noted." for n in ("One", "Two", "Three")]


def test_the_hosts_request_is_not_changed(middleware):
    """Another middleware, outside of ours, sees the request as it was before and after."""
    seen = []

    class Outside(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            before = (list(request.messages), request.system_prompt)
            response = handler(request)
            seen.append((before, (list(request.messages), request.system_prompt)))
            return response

    agent = create_agent(
        Scripted(shown=[]), middleware=[Outside(), middleware], checkpointer=InMemorySaver(), system_prompt="Be brief."
    )
    say(agent, "One.")
    say(agent, "Two.")
    assert len(seen) == 2
    assert all(before == after for before, after in seen)


@pytest.mark.skipif("system_message" not in ModelRequest.__dataclass_fields__, reason="langchain 1.0 takes text only")
def test_a_system_message_of_blocks_stays_one(middleware):
    blocks = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    model = Scripted(shown=[])
    agent = create_agent(
        model, middleware=[middleware], checkpointer=InMemorySaver(), system_prompt=SystemMessage(content=blocks)
    )
    say(agent, "One.")
    say(agent, "Two.")
    assert model.shown[1][0].content == blocks
    assert "One." in told_of(model.shown[1])


def test_steps_are_custom_events_of_the_agents_run(middleware):
    class Steps(BaseCallbackHandler):
        stages = []  # noqa: RUF012

        def on_custom_event(self, name, data, **kwargs):
            self.stages.append((name, data["stage"]))

    agent = create_agent(Scripted(shown=[]), middleware=[middleware], checkpointer=InMemorySaver())
    for text in ("One.", "Two."):
        config = {"configurable": {"thread_id": "1"}, "callbacks": [Steps()]}
        agent.invoke({"messages": [HumanMessage(text)]}, config)
    assert ("memrecall_step", "opened") in Steps.stages


@pytest.mark.parametrize("settings", [{"keep_turns": 0}, {"top_k": 0}, {"bank": 7}, {"memory": "x"}])
def test_an_impossible_setting_is_refused(memory, settings):
    with pytest.raises(InputError, match="Expected"):
        MemRecallMiddleware(**{"memory": memory, **settings})
    with pytest.raises(TypeError):
        MemRecallMiddleware(memory=memory, keep_turn=1)


def test_a_bank_of_another_model_is_refused(memory, tmp_path):
    MemRecallStore.from_texts(["Ada pays."], bank=tmp_path / "bank", memory=tiny_memory(backbone=tiny_backbone(seed=1)))
    middleware = MemRecallMiddleware(tmp_path / "bank", memory=memory)
    agent = create_agent(Scripted(shown=[]), middleware=[middleware], checkpointer=InMemorySaver())
    with pytest.raises(FingerprintMismatchError):
        say(agent, "One.")


async def test_the_loop_goes_on_while_the_gate_reads(waiting, meanwhile, tmp_path):
    memory, gate, _ = waiting
    gate.go.set()
    middleware = MemRecallMiddleware(tmp_path / "chats", memory=memory, keep_turns=1)
    agent = create_agent(Scripted(shown=[]), middleware=[middleware], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    await agent.ainvoke({"messages": [HumanMessage("One.")]}, config)
    gate.go.clear()
    gate.entered.clear()
    result = await meanwhile(agent.ainvoke({"messages": [HumanMessage("Two.")]}, config))
    assert len(result["messages"]) == 4
    middleware.close()
