"""Each thing the recall loop does, as a custom event of LangChain's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from langchain_core.callbacks import dispatch_custom_event
from langchain_core.runnables import RunnableConfig
from memrecall_kv.types import Done, Event, Noted, Opened, Scored

STEP_EVENT = "memrecall_step"
"""Name of the custom event sent for each thing the recall loop does."""


def send_step(event: Event, config: RunnableConfig) -> None:
    """Tell the callbacks of a run, if the event is a step; the config must be that of the run's children."""
    if data := _as_data(event):
        # by the config, not the context: a worker thread has another one
        dispatch_custom_event(STEP_EVENT, data, config=config)


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
