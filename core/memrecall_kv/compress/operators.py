"""Operators that need no training: each turns a chunk's keys and values into fewer, as its own function says.

They work with every backbone, and they are what a learned compressor has to beat at equal bytes. An operator takes keys
and values `[L, K, T, D]`, importance `[L or 1, K or 1, T]` and how many tokens to keep; its name stands in `OPERATORS`.
Those without a source are plain baselines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import Prefill
from memrecall_kv.compress.compressor import in_batches
from memrecall_kv.compress.importance import SCORES
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.config import CompressorConfig
from memrecall_kv.errors import InputError
from memrecall_kv.types import Chunk, MemoryBlock

Kept = tuple[Tensor, Tensor, Tensor]
"""Keys and values `[L, K, M, D]` and positions `[L, K, M]` or `[1, 1, M]`."""
_SCORED = ("select", "hybrid")
"""The operators that look at importance."""


class OperatorCompressor:
    """Selects, strides, pools, or both selects and pools.

    Args:
        backbone: The model.
        config: Operator, ratio and importance score.
        scorer: Weights for `importance="learned"`.
        layers: `(first, last)`: blocks hold these layers and texts are read no further; `None` for all.

    Raises:
        InputError: If the config asks for the learned compressor, or for a scorer that is not given.
    """

    unrotated = False

    def __init__(
        self,
        backbone: Backbone,
        config: CompressorConfig,
        scorer: ImportanceScorer | None = None,
        layers: tuple[int, int] | None = None,
    ) -> None:
        if config.kind not in OPERATORS:
            raise InputError(
                f"Expected one of {', '.join(OPERATORS)}, got {config.kind!r}.",
                "Load a checkpoint that holds a learned compressor, or choose an operator.",
            )
        if (config.importance == "learned") != (scorer is not None):
            raise InputError(
                f"importance={config.importance!r} was given {'a' if scorer else 'no'} scorer.",
                "Load a checkpoint that holds a scorer, or choose a score that needs none.",
            )
        self._backbone = backbone
        self.config = config
        self.scorer = scorer
        self.layers = layers
        self._score = scorer.within(*layers) if scorer and layers else scorer

    def of_all_layers(self) -> OperatorCompressor:
        """Return the same with blocks that hold every layer."""
        return OperatorCompressor(self._backbone, self.config, self.scorer) if self.layers else self

    @property
    def digest(self) -> str:
        """Name operator, score and budget; ratio and layers have their own places in the fingerprint."""
        scored = self.config.kind in _SCORED
        budget = f":adaptive:{self.config.budget_floor:g}" if self.config.budget == "adaptive" else ""
        weights = f":{self.scorer.digest}" if self.scorer else ""
        return f"{self.config.kind}:{self.config.importance}{budget}{weights}" if scored else self.config.kind

    def compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return one block of `ceil(T / compression_ratio)` memory tokens per chunk, in order.

        Raises:
            ContextOverflowError: If a chunk is longer than the backbone's window.
            InputError: If a chunk has no tokens.
        """
        return in_batches(self._backbone, chunks, self._compress)

    def _compress(self, rows: Sequence[Sequence[int]]) -> list[MemoryBlock]:
        prefill = self._backbone.kv.prefill(rows, layers=self.layers)
        scores = self._score(self._backbone, prefill, rows) if self._score else None
        return operate(self._backbone, prefill, rows, self.config, scores)


def operate(
    backbone: Backbone,
    prefill: Prefill,
    rows: Sequence[Sequence[int]],
    config: CompressorConfig,
    scores: Tensor | None = None,
) -> list[MemoryBlock]:
    """Return the blocks an operator makes of texts that were read already.

    Args:
        backbone: The model.
        prefill: What it holds of the texts.
        rows: Token ids of the texts.
        config: Operator, ratio and importance score.
        scores: Importance, if it was computed already; see `importance.Score`.
    """
    operator = OPERATORS[config.kind]
    scored = config.kind in _SCORED
    if scores is None:
        scores = SCORES[config.importance](backbone, prefill, rows) if scored else torch.empty(0)
    blocks = []
    for row, ids in enumerate(rows):
        size, kept = len(ids), math.ceil(len(ids) / config.compression_ratio)
        important = scores[:, row, :, :size] if scored else scores
        keys, values = prefill.keys[:, row, :, :size], prefill.values[:, row, :, :size]
        if config.budget == "adaptive":
            blocks.append(select_adaptive(keys, values, important, kept, config.budget_floor))
            continue
        keys, values, positions = operator(keys, values, important, kept)
        blocks.append(MemoryBlock(keys, values, positions.to(torch.int32), extent=size, num_source_tokens=size))
    return blocks


def select(keys: Tensor, values: Tensor, scores: Tensor, kept: int) -> Kept:
    """Keep the most important tokens of each head, in their order."""
    index = _best(scores, kept).sort(dim=-1).values  # [L or 1, K or 1, M]
    return _pick(keys, index), _pick(values, index), index


def select_adaptive(keys: Tensor, values: Tensor, scores: Tensor, kept: int, floor: float) -> MemoryBlock:
    """Keep the most important tokens of all layers and heads together, `kept` per head on average.

    Source:
        Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation, arXiv:2407.11550. Deviation: one
        budget for all layers, not one per layer.
    """
    num_layers, num_heads, size, _ = keys.shape
    scores = scores.expand(num_layers, num_heads, size)
    least = max(1, round(floor * kept))
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, _best(scores, least), value=True)
    rest = scores.masked_fill(chosen, float("-inf")).flatten()
    extra = _best(rest, kept * num_layers * num_heads - int(chosen.sum()))
    chosen.view(-1)[extra] = True
    counts = chosen.sum(dim=-1)  # [L, K]
    width = int(counts.max())
    # sorting booleans stably lists the chosen tokens first, in their order
    index = (~chosen).sort(dim=-1, stable=True).indices[..., :width]  # [L, K, M]
    real = torch.arange(width, device=keys.device) < counts[..., None]
    return MemoryBlock(
        _pick(keys, index) * real[..., None],
        _pick(values, index) * real[..., None],
        (index * real).to(torch.int32),
        extent=size,
        num_source_tokens=size,
        counts=counts.to(torch.int32),
    )


def stride(keys: Tensor, values: Tensor, scores: Tensor, kept: int) -> Kept:
    """Keep the last token of each of M equal groups."""
    size = keys.shape[2]
    index = ((torch.arange(1, kept + 1, device=keys.device) * size + kept - 1) // kept - 1)[None, None]  # [1, 1, M]
    return _pick(keys, index), _pick(values, index), index


def pool(keys: Tensor, values: Tensor, scores: Tensor, kept: int) -> Kept:
    """Average each of M equal groups; un-rotated keys can be averaged, rotated ones cannot."""
    index = torch.arange(keys.shape[2], device=keys.device)[None, None]
    return _average(keys, values, index, kept)


def hybrid(keys: Tensor, values: Tensor, scores: Tensor, kept: int) -> Kept:
    """Keep the most important tokens in half of the places and the average of the others in the rest."""
    if kept == keys.shape[2]:
        return select(keys, values, scores, kept)
    chosen = _best(scores, (kept + 1) // 2)  # [L or 1, K or 1, S]
    taken = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, value=True)
    # sorting booleans stably lists the tokens not taken first, in their order
    rest = taken.sort(dim=-1, stable=True).indices[..., : keys.shape[2] - chosen.shape[-1]]
    parts = [(_pick(keys, chosen), _pick(values, chosen), chosen)]
    if kept - chosen.shape[-1]:
        parts.append(_average(keys, values, rest, kept - chosen.shape[-1]))
    joined_keys, joined_values, positions = (torch.cat(tensors, dim=2) for tensors in zip(*parts, strict=True))
    return joined_keys, joined_values, positions


def _best(scores: Tensor, kept: int) -> Tensor:
    """Return the places of the highest scores, the earlier one of equals.

    The same token twice has the same key in the first layer: rounding lets the order decide between the two,
    instead of noise that differs from batch to batch.
    """
    return scores.round(decimals=4).sort(dim=-1, descending=True, stable=True).indices[..., :kept]


def _pick(tensor: Tensor, index: Tensor) -> Tensor:
    """Gather tokens: `[L, K, T, D]` by `[L or 1, K or 1, M]` to `[L, K, M, D]`."""
    num_layers, num_heads, _, head_dim = tensor.shape
    wide = index[..., None].expand(num_layers, num_heads, -1, head_dim)
    return tensor.gather(2, wide)


def _average(keys: Tensor, values: Tensor, index: Tensor, kept: int) -> Kept:
    """Average the tokens named by `index` in `kept` groups of neighbours, at the mean of their positions."""
    size = index.shape[-1]
    groups = torch.arange(size, device=keys.device) * kept // size  # [S] group of each token
    weights = torch.nn.functional.one_hot(groups, kept).float()
    weights = weights / weights.sum(dim=0)  # [S, M]
    mean_keys = torch.einsum("lksd,sm->lkmd", _pick(keys, index).float(), weights).to(keys.dtype)
    mean_values = torch.einsum("lksd,sm->lkmd", _pick(values, index).float(), weights).to(values.dtype)
    return mean_keys, mean_values, torch.einsum("lks,sm->lkm", index.float(), weights).round().long()


OPERATORS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Kept]] = {
    "select": select,
    "stride": stride,
    "pool": pool,
    "hybrid": hybrid,
}
