"""What is measured: the settings of a task and of a run."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from memrecall_kv.config import Config

Order: TypeAlias = Literal["forward", "reversed", "random"]


class TaskConfig(Config):
    """How a task's contexts are built.

    Attributes:
        documents: Documents of a context; for stories at least this many.
        questions: How many are drawn; all there are if `None`.
        seed: Of the draw, of haystacks and of places.
        order: Whether the evidence stands in the order of the hops, against it, or anyhow; the task's own if `None`.
        share: Questions that share a context at most. 1 is as published; more let a bank be built once for many.
    """

    documents: int = Field(default=50, ge=1)
    questions: int | None = Field(default=None, ge=1)
    seed: int = 0
    order: Order | None = None
    share: int = Field(default=1, ge=1)


class RunConfig(Config):
    """What one run measures: every system on every task at every length.

    Attributes:
        tasks: Names of tasks.
        systems: Names of systems, each with its settings.
        lengths: Documents of a context, and questions at that length; all there are if `None`.
        seed: Of everything that is drawn.
        order: As in `TaskConfig`.
        share: As in `TaskConfig`.
        kinds: Only questions of these types; all if empty.
        concurrency: Questions that are asked of a system at the same time.
        part: Which of how many equal parts of the contexts; 1 of 1 is all. Parts can be measured side by side.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    systems: tuple[str, ...] = Field(min_length=1)
    lengths: tuple[tuple[int, int | None], ...] = Field(min_length=1)
    seed: int = 0
    order: Order | None = None
    share: int = Field(default=1, ge=1)
    kinds: tuple[str, ...] = ()
    concurrency: int = Field(default=1, ge=1, le=256)
    part: tuple[int, int] = (1, 1)

    @model_validator(mode="after")
    def _part_of_the_whole(self) -> RunConfig:
        number, count = self.part
        if not 1 <= number <= count:
            raise ValueError(f"expected a part from 1/{count} to {count}/{count}, got {number}/{count}")
        return self
