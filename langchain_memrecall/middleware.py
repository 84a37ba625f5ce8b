"""Long-term memory for an agent: what was said earlier is compressed, and recalled when it matters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from memrecall_kv.config import check_count
from memrecall_kv.errors import InputError, MissingDependencyError
from memrecall_kv.hosts.lazy import LazyMemory
from memrecall_kv.types import Document, Event, Metadata, Recall

from langchain_memrecall._growing import GrowingBank
from langchain_memrecall._steps import arecalled, recalled

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain.agents.middleware.types import PrivateStateAttr
except ImportError as error:
    raise MissingDependencyError(
        "MemRecallMiddleware needs langchain, which is not installed.", 'Run: pip install "langchain>=1.0,<2"'
    ) from error

if TYPE_CHECKING:  # the core's two import torch
    from langgraph.runtime import Runtime
    from memrecall_kv import MemoryBank, MemRecall

_HEADING = "Said earlier, and perhaps of use now:"


class RememberingState(AgentState[Any]):
    """An agent's state with what was recalled for its present turn.

    Attributes:
        memrecall_recalled: Earlier turns as the model is to read them, in the order they were said.
    """

    memrecall_recalled: NotRequired[Annotated[list[str], PrivateStateAttr]]


class MemRecallMiddleware(AgentMiddleware[RememberingState, Any]):
    """Remembers an agent's conversation beyond what its model is shown.

    When a turn is over, question and answer are compressed into a bank. When the next begins, the gate opens
    what matters to it, and the model finds that text at the end of its system message. Of the messages
    themselves the model is shown the last turns only; the agent's state keeps all of them. What tools
    returned is remembered as far as the agent said it.

    Args:
        bank: An open bank; the directory of one, created if need be; `None` for a temporary one, removed by
            `close` or with this object.
        keep_turns: Turns the model is shown word for word, the present one included.
        scope: Which key of the config's `configurable` separates memories: `thread_id` for one per
            conversation, a `user_id` of your own for one per user, `None` for a single one for all.
        top_k: Blocks to open per turn, exactly; `None` leaves it to the memory's settings.
        name_or_path: What `MemRecall.from_pretrained` loads on first use; `None` for its default.
        device: Where it is loaded.
        memory: A `MemRecall` to use instead of loading one.

    Raises:
        InputError: If a number is below 1, or `bank` or `memory` something else; in a run, if its config does not
            hold `scope`.

    Example:
        ```python
        agent = create_agent(model, tools, middleware=[MemRecallMiddleware("chats.bank")], checkpointer=saver)
        agent.invoke({"messages": [...]}, {"configurable": {"thread_id": "42"}})
        ```
    """

    state_schema = RememberingState

    def __init__(
        self,
        bank: MemoryBank | str | Path | None = None,
        *,
        keep_turns: int = 4,
        scope: str | None = "thread_id",
        top_k: int | None = None,
        name_or_path: str | None = None,
        device: str = "auto",
        memory: MemRecall | None = None,
    ) -> None:
        super().__init__()
        check_count("keep_turns", keep_turns)
        check_count("top_k", top_k)
        self._keep_turns = keep_turns
        self._scope_key = scope
        self._top_k = top_k
        self._memory = LazyMemory(memory, name_or_path, device)
        self._bank = GrowingBank(bank, self._memory)

    def close(self) -> None:
        """Close the bank if this object opened it, and remove it if it was temporary."""
        self._bank.close()

    def forget(self, scope: str | None = None) -> int:
        """Delete the memory of one conversation or user, or of all if there is one for all; return its turns."""
        return self._bank.forget(lambda _, metadata: metadata.get("scope") == scope)

    def before_agent(self, state: RememberingState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Recall for the turn that begins."""
        config = ensure_config()
        return self._recalled(recalled(self._walk(state["messages"], config), config))

    async def abefore_agent(self, state: RememberingState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do what `before_agent` does, without blocking the loop; cancelling stops the scan."""
        messages, config = state["messages"], ensure_config()
        return self._recalled(await arecalled(lambda: self._walk(messages, config), config))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Show the model the last turns, and what was recalled."""
        return handler(self._shown(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Do what `wrap_model_call` does."""
        return await handler(self._shown(request))

    def after_agent(self, state: RememberingState, runtime: Runtime[Any]) -> None:
        """Remember the turn that is over, and earlier ones that are not remembered yet."""
        self._remember(state["messages"], ensure_config())

    async def aafter_agent(self, state: RememberingState, runtime: Runtime[Any]) -> None:
        """Do what `after_agent` does, without blocking the loop."""
        await asyncio.to_thread(self._remember, state["messages"], ensure_config())

    def _walk(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Generator[Event, None, None]:
        """Yield the events of recalling for the present turn."""
        scope, turns = self._scope(config), _turns(messages)
        question = str(turns[-1][0].text) if turns else ""
        if not question.strip():
            return
        shown = {_turn_id(scope, turn) for turn in turns[-self._keep_turns :]}

        def where(doc_id: str, metadata: Metadata) -> bool:
            return metadata.get("scope") == scope and doc_id not in shown

        yield from self._memory.get().walk(self._bank.get(), question, top_k=self._top_k, where=where)

    def _recalled(self, recalls: Sequence[Recall]) -> dict[str, Any]:
        if not recalls:
            return {"memrecall_recalled": []}
        places = {chunk.id: place for place, chunk in enumerate(self._bank.get().chunks())}
        said = sorted(recalls, key=lambda recall: places.get(recall.chunk.id, len(places)))
        return {"memrecall_recalled": [recall.text.strip() for recall in said]}

    def _shown(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        starts = [place for place, message in enumerate(request.messages) if isinstance(message, HumanMessage)]
        # only at the start of a turn: a model refuses a tool's answer without the call before it
        first = starts[-self._keep_turns] if len(starts) > self._keep_turns else 0
        messages = request.messages[first:]
        request = request.override(messages=messages)
        recalled = cast("RememberingState", request.state).get("memrecall_recalled", [])
        return _with_text(request, "\n\n".join([_HEADING, *recalled])) if recalled else request

    def _remember(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> None:
        scope = self._scope(config)
        documents = [
            Document(id=_turn_id(scope, turn), text=text, metadata={"scope": scope})
            for turn in _turns(messages)
            if (text := _turn_text(turn))
        ]
        if documents:
            self._bank.ingest(documents)

    def _scope(self, config: RunnableConfig) -> str | None:
        if self._scope_key is None:
            return None
        found = config.get("configurable", {}).get(self._scope_key)
        if found is None:
            raise InputError(
                f"Expected {self._scope_key!r} in the config's 'configurable', got {sorted(config['configurable'])}.",
                f'Invoke with {{"configurable": {{"{self._scope_key}": ...}}}}, or share one memory with scope=None.',
            )
        return str(found)


def _turns(messages: Sequence[BaseMessage]) -> list[list[BaseMessage]]:
    """Return the messages by turn: a human one, and all that follow it; what comes before the first is left out."""
    turns: list[list[BaseMessage]] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            turns.append([message])
        elif turns:
            turns[-1].append(message)
    return turns


def _turn_id(scope: str | None, turn: Sequence[BaseMessage]) -> str:
    return f"{scope or ''}/{turn[0].id}"


def _turn_text(turn: Sequence[BaseMessage]) -> str:
    """Return who said what, or nothing if only one side did."""
    answer = " ".join(str(message.text).strip() for message in turn if isinstance(message, AIMessage)).strip()
    question = str(turn[0].text).strip()
    return f"User: {question}\nAssistant: {answer}" if question and answer else ""


def _with_text(request: ModelRequest[Any], text: str) -> ModelRequest[Any]:
    """Return the request with a text at the end of its system message."""
    if not hasattr(request, "system_message"):  # langchain 1.0
        longer = "\n\n".join(filter(None, [request.system_prompt, text]))
        return cast("ModelRequest[Any]", cast("Any", request).override(system_prompt=longer))
    system = request.system_message
    if system is None:
        return request.override(system_message=SystemMessage(content=text))
    said = system.content
    content = f"{said}\n\n{text}" if isinstance(said, str) else [*said, {"type": "text", "text": text}]
    return request.override(system_message=system.model_copy(update={"content": content}))
