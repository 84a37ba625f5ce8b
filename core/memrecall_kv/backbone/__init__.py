"""The model that all parts share: the only room that knows transformers."""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.backbone.backbone import Backbone
    from memrecall_kv.backbone.kv import KVAccess, KVState
    from memrecall_kv.backbone.loading import load_backbone, wrap_backbone
    from memrecall_kv.backbone.lora import LoraAdapter

__all__ = [
    "Backbone",
    "KVAccess",
    "KVState",
    "load_backbone",
    "LoraAdapter",
    "wrap_backbone",
]

__getattr__ = on_demand(
    __name__,
    {
        "Backbone": "memrecall_kv.backbone.backbone",
        "KVAccess": "memrecall_kv.backbone.kv",
        "KVState": "memrecall_kv.backbone.kv",
        "load_backbone": "memrecall_kv.backbone.loading",
        "LoraAdapter": "memrecall_kv.backbone.lora",
        "wrap_backbone": "memrecall_kv.backbone.loading",
    },
)
