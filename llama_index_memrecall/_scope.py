"""What one question may recall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_index.core.schema import NodeWithScore
from memrecall_kv.filters import Filter
from memrecall_kv.types import Recall

if TYPE_CHECKING:  # the bank imports torch
    from memrecall_kv.bank import MemoryBank


@dataclass(frozen=True)
class Scope:
    """What one question may recall.

    Attributes:
        bank: Where to look.
        where: Which of its documents; `None` for all.
        sources: Turns what was recalled into the host's nodes.
        unit: Names what the block of a recall is counted as: its node. `None` counts blocks.
    """

    bank: MemoryBank
    where: Filter | None
    sources: Callable[[Sequence[Recall]], list[NodeWithScore]]
    unit: Callable[[Recall], str] | None = None
