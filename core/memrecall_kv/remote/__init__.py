"""A bank behind a server, used as a local one: `memory.py` is the client, the other files its parts. Needs `remote`.

No file here imports torch. The server is `memrecall_kv.serve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.remote.memory import RemoteMemRecall

__all__ = ["RemoteMemRecall"]

__getattr__ = on_demand(__name__, {"RemoteMemRecall": "memrecall_kv.remote.memory"})
