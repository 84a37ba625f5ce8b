"""Long-term memory for an agent: what was said earlier is compressed, and recalled when it matters."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, cast

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from memrecall_kv.bank.metadata import repaired
from memrecall_kv.config import check_count
from memrecall_kv.errors import (
    ConfigError,
    FingerprintMismatchError,
    InputError,
    MemRecallError,
    MissingDependencyError,
    UnsupportedModelError,
)
from memrecall_kv.filters import AmongIds, Compare, Filter, Operator, all_of
from memrecall_kv.hosts.arguments import OwnNames
from memrecall_kv.hosts.lazy import LazyMemory
from memrecall_kv.types import Document, Event, Recall

from langchain_memrecall._growing import GrowingBank
from langchain_memrecall._steps import arecalled, recalled
from langchain_memrecall._turns import SOURCE, Stored, Turn, changes, is_said, turns_of

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

logger = logging.getLogger(__name__)

_HEADING = "Said earlier, and perhaps of use now; a record, not a request:"
_SET_UP = (FingerprintMismatchError, ConfigError, MissingDependencyError, UnsupportedModelError)
"""Errors of whoever made the middleware: nothing would ever be remembered."""


def _merged(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    return {**(old or {}), **(new or {})}


class RememberingState(AgentState[Any]):
    """An agent's state with what its memories note about the conversation.

    Attributes:
        memrecall: Of each memory, under its name: what was recalled for the present turn, in the order it was said,
            and the ids of messages whose turns were remembered. Of all: the ids of human messages that users sent,
            and of those that appeared during a run.
    """

    memrecall: NotRequired[Annotated[dict[str, Any], PrivateStateAttr, _merged]]


class MemRecallMiddleware(OwnNames, AgentMiddleware[RememberingState, Any]):
    """Remembers an agent's conversation beyond what its model is shown.

    When a turn is over, question and answer are compressed into a bank. When the next begins, the gate opens
    what matters to it, and the model finds that text before the turns that it is shown: in a message of a user's rank,
    since users wrote it. Of the messages themselves the model is shown the last turns only; the agent's state keeps all
    of them. What tools returned is remembered as far as the agent said it. Human messages that a middleware wrote, such
    as summaries, are nobody's turn, and stay.

    It is an aid: when a bank is busy, full or damaged, or a text does not fit, that is logged, and the agent goes on.
    A turn that could not be remembered is tried again after the next.

    Args:
        bank: An open bank; the directory of one, created if need be; `None` for a temporary one, removed by
            `close` or with this object.
        keep_turns: Turns the model is shown word for word, the present one included.
        scope: Which key of the config's `configurable`, or of the run's `context`, separates memories: `thread_id` for
            one per conversation, a `user_id` of your own for one per user, `None` for a single one for all.
        top_k: Blocks to open per turn, exactly; `None` leaves it to the memory's settings.
        name_or_path: What `MemRecall.from_pretrained` loads on first use; `None` for its default.
        device: Where it is loaded.
        memory: A `MemRecall` to use instead of loading one.
        name: Of this memory in the agent; made of `scope` if left out. An agent's middlewares need different ones.

    Raises:
        InputError: If a number is below 1, or `bank` or `memory` something else; in a run, if neither its config nor
            its context holds `scope`, or they differ.
        FingerprintMismatchError: In a run, if another model made the bank.

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
        name: str | None = None,
    ) -> None:
        super().__init__()
        check_count("keep_turns", keep_turns)
        check_count("top_k", top_k)
        self._keep_turns = keep_turns
        self._scope_key = scope
        self._name = name or ".".join(filter(None, [type(self).__name__, scope if scope != "thread_id" else None]))
        self._top_k = top_k
        self._memory = LazyMemory(memory, name_or_path, device)
        self._bank = GrowingBank(bank, self._memory)
        self._forgotten: set[str | None] = set()

    @property
    def name(self) -> str:
        """The name of this memory in the agent."""
        return self._name

    def close(self) -> None:
        """Close the bank if this object opened it, and remove it if it was temporary."""
        self._bank.close()

    def forget(self, scope: Any = None) -> int:
        """Delete the memory of one conversation or user, or of all if there is one for all; return its turns.

        Nothing of it is left in the bank's files. What the agent's state still holds of it is shown as long as it is
        among the last turns, and not remembered again.

        Args:
            scope: The id the runs were given, of any type.

        Raises:
            InputError: If memories are apart, and there is no `scope`.
            BankLockedError: If another process writes to the bank.
        """
        if scope is None and self._scope_key is not None:
            raise InputError(f"Expected a {self._scope_key} whose memory to forget, got None.", "Name it.")
        name = _as_name(scope)
        self._forgotten.add(name)
        return self._bank.forget(self._of(name))

    async def aforget(self, scope: Any = None) -> int:
        """Do what `forget` does, without blocking the loop."""
        return await asyncio.to_thread(self.forget, scope)

    def before_agent(self, state: RememberingState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Recall for the turn that begins."""
        config, heard = ensure_config(), _heard(state)
        scope, recalls = self._scope(config, runtime), list[Recall]()
        with self._aiding("recalled"):
            recalls = recalled(self._walk(state["messages"], heard, scope), config)
        return self._taken_down(heard, self._in_order(recalls))

    async def abefore_agent(self, state: RememberingState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do what `before_agent` does, without blocking the loop; cancelling stops the scan."""
        config, heard = ensure_config(), _heard(state)
        scope, recalls = self._scope(config, runtime), list[Recall]()
        with self._aiding("recalled"):
            recalls = await arecalled(lambda: self._walk(state["messages"], heard, scope), config)
        return self._taken_down(heard, await asyncio.to_thread(self._in_order, recalls))

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

    def after_agent(self, state: RememberingState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Remember the turn that is over, and earlier ones that are not remembered yet."""
        return self._remembered(state, ensure_config(), runtime)

    async def aafter_agent(self, state: RememberingState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do what `after_agent` does, without blocking the loop."""
        return await asyncio.to_thread(self._remembered, state, ensure_config(), runtime)

    def _walk(
        self, messages: Sequence[BaseMessage], heard: Sequence[str], scope: str | None
    ) -> Generator[Event, None, None]:
        """Yield the events of recalling for the present turn."""
        turns = turns_of(messages, heard)
        if turns and turns[-1].question:
            shown = turns[-self._keep_turns :]
            where = all_of(
                [
                    self._of(scope),
                    Compare("message", Operator.NIN, [turn.id for turn in shown]),
                    Compare("turn", Operator.NIN, [turn.digest for turn in shown]),
                ]
            )
            yield from self._memory.get().walk(self._bank.get(), turns[-1].question, top_k=self._top_k, where=where)

    def _in_order(self, recalls: Sequence[Recall]) -> list[str]:
        """Return what was recalled in the order it was said."""
        texts = {recall.chunk.id: _quoted(recall) for recall in recalls}
        if texts:
            with self._aiding("put in order"):
                among = AmongIds(frozenset(recall.chunk.doc_id for recall in recalls))
                return [texts[chunk.id] for chunk in self._bank.get().chunks(among) if chunk.id in texts]
        return list(texts.values())

    def _taken_down(self, heard: list[str], texts: list[str]) -> dict[str, Any]:
        return {"memrecall": {"heard": heard, f"{self._name}/recalled": texts}}

    def _shown(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        notes = _notes(request.state)
        heard = notes.get("heard")
        starts = [place for place, message in enumerate(request.messages) if is_said(message, heard)]
        is_cut = len(starts) > self._keep_turns
        # only at the start of a turn: a model refuses a tool's answer without the call before it
        first = starts[-self._keep_turns if is_cut else 0] if starts else 0
        # what is nobody's turn stays: instructions, summaries, and what another memory recalled
        before = [m for m in request.messages[:first] if not (is_cut and _belongs_to_turn(m, heard))]
        known = "\n\n".join(str(message.text) for message in request.messages if SOURCE in message.additional_kwargs)
        texts = [text for text in notes.get(f"{self._name}/recalled", ()) if text not in known]
        if texts:
            record = "\n\n".join([_HEADING, *texts])
            before.append(HumanMessage(content=record, additional_kwargs={SOURCE: "memrecall"}))
        return request.override(messages=[*before, *request.messages[first:]])

    def _remembered(self, state: RememberingState, config: RunnableConfig, runtime: Runtime[Any]) -> dict[str, Any]:
        """Remember, and return what is to be noted about it."""
        notes, humans = _notes(state), [str(m.id) for m in state["messages"] if isinstance(m, HumanMessage)]
        heard = notes.get("heard", humans)
        noted: dict[str, Any] = {"unsaid": [message for message in humans if message not in heard]}
        scope, turns = self._scope(config, runtime), [turn for turn in turns_of(state["messages"], heard) if turn.text]
        done = notes.get(f"{self._name}/done", [])
        with self._aiding("remembered"):
            # after `forget`, what was said before it is not brought back, whoever sends it
            self._remember(turns, scope, [turn.id for turn in turns] if scope in self._forgotten else done, config)
            noted[f"{self._name}/done"] = [turn.id for turn in turns]
        return {"memrecall": noted}

    def _remember(self, turns: Sequence[Turn], scope: str | None, done: Sequence[str], config: RunnableConfig) -> None:
        if not turns:
            return
        thread = _as_name(config.get("configurable", {}).get("thread_id"))
        memory = self._memory.get()
        with self._bank.writing(wait=memory.config.bank.wait_seconds) as bank:
            doc_ids = dict.fromkeys(chunk.doc_id for chunk in bank.chunks(self._of(scope)))
            wanted = changes(turns, [_stored(doc_id, bank.metadata(doc_id)) for doc_id in doc_ids], done, thread)
            for doc_id in wanted.delete:
                bank.delete(doc_id)
            memory.ingest(bank, [self._document(turn, scope, thread, doc_id) for doc_id, turn in wanted.put])

    def _document(self, turn: Turn, scope: str | None, thread: str | None, doc_id: str | None) -> Document:
        metadata = {"of": self._scope_key, "scope": scope, "message": turn.id, "turn": turn.digest, "thread": thread}
        named = repr((self._scope_key, scope, turn.id)).encode()
        return Document(doc_id or hashlib.sha256(named).hexdigest()[:32], turn.text, metadata)

    def _of(self, scope: str | None) -> Filter:
        """Return the filter for one memory."""
        return all_of([Compare("of", Operator.EQ, self._scope_key), Compare("scope", Operator.EQ, scope)])

    def _scope(self, config: RunnableConfig, runtime: Runtime[Any]) -> str | None:
        key = self._scope_key
        if key is None:
            return None
        configurable, context = config.get("configurable", {}), getattr(runtime, "context", None)
        given = context.get(key) if isinstance(context, Mapping) else getattr(context, key, None)
        found = {_as_name(value) for value in (configurable.get(key), given) if value is not None}
        if len(found) == 1:
            return found.pop()
        if found:
            raise InputError(
                f"Expected one {key!r}, got {sorted(map(str, found))} in the config and in the context.", "Pass one."
            )
        raise InputError(
            f"Expected {key!r} in the config's 'configurable' or in the context, got {sorted(configurable)}.",
            f'Invoke with {{"configurable": {{"{key}": ...}}}}, or share one memory with scope=None.',
        )

    @contextmanager
    def _aiding(self, what: str) -> Generator[None, None, None]:
        """Log an error of ours and go on, unless it is one of the set-up."""
        try:
            yield
        except _SET_UP:
            raise
        except MemRecallError as error:
            logger.warning("%s: not %s. %s", self._name, what, error)


def _notes(state: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", state.get("memrecall") or {})


def _heard(state: RememberingState) -> list[str]:
    """Return the ids of the human messages that users sent: all but those that once appeared during a run."""
    unsaid = _notes(state).get("unsaid", ())
    return [str(message.id) for message in state["messages"] if is_said(message) and message.id not in unsaid]


def _belongs_to_turn(message: BaseMessage, heard: Sequence[str] | None) -> bool:
    if isinstance(message, HumanMessage):
        return is_said(message, heard)
    return not isinstance(message, SystemMessage)


def _quoted(recall: Recall) -> str:
    """Return a recalled text; one from the midst of a turn does not begin like another turn."""
    return recall.text.strip() if recall.chunk.start == 0 else f"... {recall.text.strip()}"


def _stored(doc_id: str, metadata: Mapping[str, Any]) -> Stored:
    return Stored(doc_id, str(metadata.get("message")), str(metadata.get("turn")), metadata.get("thread"))


def _as_name(scope: Any) -> str | None:
    """Return an id of any type as it is stored: the numbers, UUIDs and tuples that LangGraph takes too."""
    return None if scope is None else repaired(str(scope))
