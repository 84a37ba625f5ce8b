"""Each thing the recall loop does, as a custom event of LangChain's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from langchain_core.callbacks import CallbackManager
from langchain_core.runnables import RunnableConfig
from memrecall_kv.types import Done, Event, Noted, Opened, Scored

STEP_EVENT = "memrecall_step"
"""Name of the custom event sent for each thing the recall loop does."""


class Steps:
    """Tells the callbacks of a run of its steps.

    Not by `dispatch_custom_event`, which sets callbacks up anew for each: a scan has a step per block.

    Args:
        config: That of the run's children; sync and async callbacks both do.
    """

    def __init__(self, config: RunnableConfig) -> None:
        self._manager = CallbackManager.configure(inheritable_callbacks=config.get("callbacks"))

    def send(self, event: Event) -> None:
        """Tell of an event, if it is a step and anybody listens."""
        run_id = self._manager.parent_run_id
        if self._manager.handlers and run_id is not None and (data := _as_data(event)):
            self._manager.on_custom_event(STEP_EVENT, data, run_id=run_id)


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
