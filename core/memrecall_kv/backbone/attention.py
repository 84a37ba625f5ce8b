"""What a backbone's attention layers are shown, and what they look at: masks by head, and weights received."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from memrecall_kv.errors import UnsupportedModelError

_ROWS = "memrecall_kv_row_by_row"
"""What transformers calls the attention that runs row by row."""
_BESIDE = "memrecall_kv_beside"
"""What it calls the attention to what is there already."""


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

    layers = _attentions(base.layers)
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
    handles = [module.register_forward_hook(watch) for module in _attentions(base.layers)]
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


@dataclass(frozen=True, eq=False)
class Beside:
    """What the tokens of one layer attend to, part by part: nothing is copied to where they are.

    Attributes:
        there: Keys, values and mask of each part that was there before, one row of them for all or one for each.
            `[B or 1, K, C, D]` twice, and `[B or 1, K or 1, Q or 1, C]`, 0 or the lowest number.
        among: The mask of the tokens among themselves. `[1, 1, Q, Q]`.
        own: Gets the tokens' own keys and values.
    """

    there: Sequence[tuple[Tensor, Tensor, Tensor]]
    among: Tensor
    own: list[tuple[Tensor, Tensor]] | None = None


@contextmanager
def beside(layers: Sequence[Any]) -> Iterator[None]:
    """Let layers attend to what they are given as `beside`, inside the `with` block."""
    AttentionInterface.register(_BESIDE, _attend_beside)
    # copies of layers have configs of their own
    configs = {id(config): config for config in (module.config for module in _attentions(layers))}.values()
    chosen = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = _BESIDE
        yield
    finally:
        for config, before in zip(configs, chosen, strict=True):
            config._attn_implementation = before


def _attend_beside(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *, beside: Beside, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend to several parts at once, `[B, H, Q, D]` -> `[B, Q, H, D]`; the heads of a KV head as one."""
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux")):
        raise UnsupportedModelError(
            f"{type(module).__name__} bounds its attention or adds sinks to it, which a window of layers cannot.",
            "Leave out gate.layers, or choose a backbone such as Llama or Qwen.",
        )
    batch, heads, width, dim = query.shape
    held = key.shape[1]
    asked = (query * kwargs["scaling"]).reshape(batch, held, -1, dim)  # [B, K, G * Q, D]
    parts = [*beside.there, (key, value, beside.among)]
    scores = torch.cat(
        [
            (_each(asked, keys.mT).view(batch, held, -1, width, keys.shape[2]) + mask[:, :, None])
            for keys, _, mask in parts
        ],
        dim=-1,
    )
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype).flatten(2, 3)
    split = torch.split(weights, [keys.shape[2] for keys, *_ in parts], dim=-1)
    found = torch.stack([_each(part, values) for part, (_, values, _) in zip(split, parts, strict=True)]).sum(dim=0)
    if beside.own is not None:
        beside.own.append((key, value))
    return found.view(batch, heads, width, dim).transpose(1, 2), None


def _each(left: Tensor, right: Tensor) -> Tensor:
    """Multiply `[B, K, N, n]` by `[B or 1, K, n, m]`; one that all rows share is not copied for each of them."""
    batch, heads, rows, inner = left.shape
    if len(right) == batch:
        return left @ right
    together = left.transpose(0, 1).reshape(heads, batch * rows, inner) @ right[0]
    return together.view(heads, batch, rows, -1).transpose(0, 1)


def _attentions(layers: Sequence[Any]) -> list[Any]:
    modules = [getattr(layer, "self_attn", None) for layer in layers]
    if None in modules:
        raise UnsupportedModelError(
            "The backbone has layers without self_attn, which cannot be watched, masked by head or read alone.",
            "Choose uniform budgets, another importance and no gate.layers, or a backbone such as Llama or Qwen.",
        )
    return modules
