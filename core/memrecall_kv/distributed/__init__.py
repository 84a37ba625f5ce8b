"""Documents into the shards of a bank by many workers, and questions to them, on an engine that is there: Ray.

Needs the extra `ray`. `ray_ingest.py` is where it begins, `ray_serving.py` where questions come in. The shards are
opened as one by `MemRecall.open_bank`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.distributed.fetching import fetch_shards
    from memrecall_kv.distributed.ray_ingest import ingest_ray
    from memrecall_kv.distributed.ray_serving import Replicas, ray_app

__all__ = ["fetch_shards", "ingest_ray", "ray_app", "Replicas"]

__getattr__ = on_demand(
    __name__,
    {
        "fetch_shards": "memrecall_kv.distributed.fetching",
        "ingest_ray": "memrecall_kv.distributed.ray_ingest",
        "ray_app": "memrecall_kv.distributed.ray_serving",
        "Replicas": "memrecall_kv.distributed.ray_serving",
    },
)
