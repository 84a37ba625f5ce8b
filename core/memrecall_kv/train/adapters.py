"""LoRA adapters as what is trained: new ones, and their leaves by name."""

from __future__ import annotations

from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.train.settings import AdapterConfig


def new_adapter(backbone: Backbone, config: AdapterConfig, seed: int) -> LoraAdapter:
    """Return an adapter that changes nothing yet."""
    return LoraAdapter.create(backbone.model, config.targets, rank=config.rank, alpha=config.alpha, seed=seed)


def named_parameters(adapters: dict[str, LoraAdapter | None]) -> dict[str, Tensor]:
    """Return the leaves of the adapters there are, by part, layer and side."""
    return {
        f"{part}.{name}.{side}": tensor
        for part, adapter in adapters.items()
        if adapter is not None
        for name, pair in adapter.deltas.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
