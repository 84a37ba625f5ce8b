"""What a backbone's attention layers are shown, and what they look at: masks by head, and weights received."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from memrecall_kv.errors import UnsupportedModelError

_ROWS = "memrecall_kv_row_by_row"
"""What transformers calls the attention that runs row by row."""


def causal(mask: Tensor, width: int) -> Tensor:
    """Return which columns each of the last `width` tokens may attend to.

    Shapes:
        mask: real columns `[B, C]` bool; return: `[B, width, C]` bool.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    return mask[:, None] & (columns <= columns[-width:, None])


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a token may look and the lowest number elsewhere; any shape."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)


@contextmanager
def masked_by_head(base: Any, head_mask: Tensor | None, visible: Tensor | None, dtype: torch.dtype) -> Iterator[None]:
    """Give every layer and head its own mask inside the `with` block; nothing if heads hold the same columns.

    Args:
        base: The backbone's model without its head.
        head_mask: Which of the first columns a head holds. `[L, B, K, n]` bool.
        visible: Which columns each token may attend to. `[B, Q, C]` bool.
        dtype: Of the backbone.
    """
    if head_mask is None or visible is None:
        yield
        return
    group = base.config.num_attention_heads // base.config.num_key_value_heads
    rest = visible.shape[2] - head_mask.shape[3]

    def narrow(own: Tensor) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            held = torch.nn.functional.pad(own, (0, rest), value=True)  # [B, K, C]
            allowed = (visible[:, None] & held[:, :, None]).repeat_interleave(group, dim=1)  # [B, H, Q, C]
            return args, {**kwargs, "attention_mask": additive(allowed, dtype)}

        return hook

    layers = _layers(base)
    handles = [
        module.register_forward_pre_hook(narrow(own), with_kwargs=True)
        for module, own in zip(layers, head_mask, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(base: Any, real: Tensor, heads: int, columns: slice) -> Iterator[list[Tensor]]:
    """Collect, layer by layer, the most attention each column gets from any real token of one forward.

    Args:
        base: The backbone's model without its head.
        real: Which of the new tokens count. `[B, Q]` bool.
        heads: KV heads, K; the largest weight of the query heads that share one is taken.
        columns: Which n columns are watched.

    Yields:
        A list that fills with `[B, K, n]` float32 per layer.
    """
    received: list[Tensor] = []

    def watch(module: Any, args: Any, output: Any) -> None:
        weights = (output[1][..., columns] * real[:, None, :, None]).amax(dim=2)  # [B, H, n]
        received.append(weights.unflatten(1, (heads, -1)).amax(dim=2).float())

    chosen = base.config._attn_implementation
    handles = [module.register_forward_hook(watch) for module in _layers(base)]
    try:
        base.config._attn_implementation = "eager"  # the only one that returns its weights
        yield received
    finally:
        base.config._attn_implementation = chosen
        for handle in handles:
            handle.remove()


def can_run_row_by_row(base: Any) -> bool:
    """Return whether a backbone lets its attention be chosen."""
    return bool(base._supports_attention_backend) and base.config._attn_implementation in ("eager", "sdpa")


@contextmanager
def row_by_row(
    base: Any, caches: Sequence[Any], widths: Sequence[int], masks: Sequence[Tensor | None]
) -> Iterator[dict[str, Any]]:
    """Let tokens of several rows stand in one row, and those of each attend to its own cache, inside the `with` block.

    Args:
        base: The backbone's model without its head.
        caches: Of each row; takes the row's new keys and values.
        widths: New tokens of each row, Q.
        masks: Which columns, old and new, they see, as `additive` makes it; all if `None`. `[1, 1, Q, C]`.

    Yields:
        What the backbone is to be called with besides.
    """
    chosen = base.config._attn_implementation
    AttentionInterface.register(_ROWS, _attend_row_by_row)
    base.config._attn_implementation = _ROWS
    try:
        yield {"rows": (chosen, caches, widths, masks)}
    finally:
        base.config._attn_implementation = chosen


def _attend_row_by_row(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *, rows: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Run a layer's own attention once for each row, `[1, H, N, D]` of all rows' tokens -> `[1, N, H, D]`."""
    chosen, caches, widths, masks = rows
    eager = sys.modules[type(module).__module__].eager_attention_forward
    interfaces: Any = AttentionInterface  # untyped
    attend = interfaces().get_interface(chosen, eager)
    split = (torch.split(each, widths, dim=2) for each in (query, key, value))
    parts = []
    for cache, mask, *new in zip(caches, masks, *split, strict=True):
        keys, values = cache.update(new[1], new[2], module.layer_idx)
        parts.append(attend(module, new[0], keys, values, mask, **kwargs)[0])
    return torch.cat(parts, dim=1), None


def _layers(base: Any) -> list[Any]:
    modules = [getattr(layer, "self_attn", None) for layer in base.layers]
    if None in modules:
        raise UnsupportedModelError(
            f"{type(base).__name__} has layers without self_attn, which cannot be watched or masked by head.",
            "Choose uniform budgets and another importance, or a backbone such as Llama or Qwen.",
        )
    return modules
