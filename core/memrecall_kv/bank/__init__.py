"""A directory of blocks and texts, changed in transactions."""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.bank.archive import export_bank, import_bank
    from memrecall_kv.bank.bank import MemoryBank

__all__ = [
    "MemoryBank",
    "export_bank",
    "import_bank",
]

__getattr__ = on_demand(
    __name__,
    {
        "MemoryBank": "memrecall_kv.bank.bank",
        "export_bank": "memrecall_kv.bank.archive",
        "import_bank": "memrecall_kv.bank.archive",
    },
)
