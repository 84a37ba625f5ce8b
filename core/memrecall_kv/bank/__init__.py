"""A directory of blocks and texts, changed in transactions."""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.bank.bank import MemoryBank

__all__ = [
    "MemoryBank",
]

__getattr__ = on_demand(
    __name__,
    {
        "MemoryBank": "memrecall_kv.bank.bank",
    },
)
