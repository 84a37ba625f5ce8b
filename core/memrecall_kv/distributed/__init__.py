"""Documents into the shards of a bank by many workers, on an engine that is there: Ray. Needs the extra `ray`.

`ray_ingest.py` is where it begins. The shards are opened as one by `MemRecall.open_bank`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.distributed.fetching import fetch_shards
    from memrecall_kv.distributed.ray_ingest import ingest_ray

__all__ = ["fetch_shards", "ingest_ray"]

__getattr__ = on_demand(
    __name__,
    {
        "fetch_shards": "memrecall_kv.distributed.fetching",
        "ingest_ray": "memrecall_kv.distributed.ray_ingest",
    },
)
