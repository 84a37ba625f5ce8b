"""The tasks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.question import Context
from memrecall_kv.evaluate.settings import TaskConfig
from memrecall_kv.evaluate.tasks import multihop, stories, synthetic
from memrecall_kv.evaluate.tasks.babi_long import babi_long
from memrecall_kv.evaluate.tasks.everyday import everyday

Task: TypeAlias = Callable[[Path | None, TaskConfig], Iterator[Context]]
"""Called with a data folder and settings; yields contexts, one after the other."""

_SYNTHETIC = (*synthetic.PUZZLES, "common-words")
_EVERYDAY: dict[str, Task] = {"everyday": everyday, "everyday-kept": partial(everyday, kept=True)}
WITHOUT_DATA = frozenset({*_SYNTHETIC, *_EVERYDAY})
"""Tasks that need no data folder."""

TASKS: dict[str, Task] = {
    **{name: partial(multihop.multihop, name) for name in multihop.FILES},
    **{f"{name}-unanswerable": partial(multihop.multihop, name, answerable=False) for name in multihop.FILES},
    **{name: partial(synthetic.synthetic, name) for name in _SYNTHETIC},
    **_EVERYDAY,
    "babi-long": babi_long,
    **{name: partial(stories.stories, name) for name in stories.FILES},
}
"""Every task."""


def find_task(name: str) -> Task:
    """Return a task.

    Raises:
        InputError: If there is none of this name.
    """
    if name not in TASKS:
        raise InputError(f"Expected the name of a task, got {name!r}.", f"Tasks: {', '.join(TASKS)}.")
    return TASKS[name]
