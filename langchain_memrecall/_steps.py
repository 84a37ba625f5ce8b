"""Each thing the recall loop does, as a custom event of LangChain's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.runnables import RunnableConfig
from memrecall_kv.hosts.streaming import in_thread
from memrecall_kv.types import Done, Event, Noted, Opened, Recall, Scored

from langchain_memrecall._telling import Telling, atold, told

STEP_EVENT = "memrecall_step"
"""Name of the custom event sent for each thing the recall loop does."""


class Steps:
    """Tells the callbacks of a run of its steps.

    Not by `dispatch_custom_event`, which sets callbacks up anew for each: a scan has a step per block.

    Args:
        kind: Sync or async.
        config: That of the run's children.
    """

    def __init__(self, kind: type[CallbackManager | AsyncCallbackManager], config: RunnableConfig) -> None:
        self._manager = kind.configure(inheritable_callbacks=config.get("callbacks"))

    def tell(self, event: Event) -> Telling:
        """Tell of an event, if it is a step and anybody listens."""
        run_id = self._manager.parent_run_id
        if self._manager.handlers and run_id is not None and (data := _as_data(event)):
            yield self._manager.on_custom_event(STEP_EVENT, data, run_id=run_id)


def recalled(events: Generator[Event, None, None], config: RunnableConfig) -> list[Recall]:
    """Return what a walk opens, telling of its steps."""
    steps, recalls = Steps(CallbackManager, config), []
    with closing(events):
        for event in events:
            told(steps.tell(event))
            if isinstance(event, Opened):
                recalls.append(event.recall)
    return recalls


async def arecalled(walk: Callable[[], Generator[Event | None, None, None]], config: RunnableConfig) -> list[Recall]:
    """Return what `recalled` returns, without blocking the loop; cancelling stops the walk."""
    steps, recalls = Steps(AsyncCallbackManager, config), []
    events: AsyncGenerator[Event, None] = in_thread(walk)
    async with aclosing(events):
        async for event in events:
            await atold(steps.tell(event))
            if isinstance(event, Opened):
                recalls.append(event.recall)
    return recalls


def _as_data(event: Event) -> dict[str, Any] | None:
    match event:
        case Scored(step):
            return {"stage": "scored", **asdict(step)}
        case Opened(recall):
            return {
                "stage": "opened",
                "chunk_id": recall.chunk.id,
                "gate_probability": recall.gate_probability,
                "step": recall.step,
            }
        case Noted(note):
            return {"stage": "noted", **asdict(note)}
        case Done(answer):
            return {"stage": "finished", "found": answer.found, "usage": asdict(answer.usage)}
        case _:
            return None
