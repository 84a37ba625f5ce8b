"""A part of a backbone's layers, run on hidden states: what judges a block need not see it in every layer.

Layers below the window read a prompt without any block, once for all blocks; those of the window read on beside
each block; those above are not run. Probes of a trained gate say why: layers above two thirds add nothing to it, and
those below a fifth need not see the block (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from memrecall_kv.backbone import attention
from memrecall_kv.backbone.kv import KVAccess
from memrecall_kv.errors import InputError
from memrecall_kv.types import MemoryBlock


@dataclass(frozen=True, eq=False)
class PlacedBlocks:
    """Blocks of a batch of rows, each behind a sink, as the window's layers read them.

    Attributes:
        keys: Rotated to where they stand. `[N, B, K, C, D]`, N the window's layers.
        values: `[N, B, K, C, D]`.
        held: Which columns a head holds. `[N or 1, B, K or 1, C]` bool.
    """

    keys: Tensor
    values: Tensor
    held: Tensor


@dataclass(frozen=True, eq=False)
class Prompt:
    """Prompts that the layers below a window have read.

    Attributes:
        hidden: `[B, Q, hidden]`, padded on the right.
        lengths: Real tokens of each row. `[B]`.
    """

    hidden: Tensor
    lengths: Tensor

    def rows(self, numbers: Sequence[int]) -> Prompt:
        """Return rows by number, as often as they are named."""
        index = torch.tensor(numbers, device=self.hidden.device)
        return Prompt(self.hidden[index], self.lengths[index])


class LayerWindow:
    """Layers `[first, last)`.

    Args:
        kv: The backbone's.
        first: Layers below it that see no block.
        last: The first layer that is not run.
        start: Where prompts stand: the same place behind every block.

    Raises:
        InputError: If the backbone has no such layers.
    """

    def __init__(self, kv: KVAccess, first: int, last: int, *, start: int) -> None:
        depth = len(kv.base.layers)
        if not 0 <= first < last <= depth:
            raise InputError(f"Expected layers within 0 and {depth}, got {first} to {last}.", "Choose first < last.")
        self.first, self.last = first, last
        self._kv, self._start = kv, start

    def read_prompt(self, rows: Sequence[Sequence[int]]) -> Prompt:
        """Read prompts with the layers below the window, beside nothing but the sink."""
        ids, lengths = self._kv.pad(rows)
        nothing = self._placed([[]] * len(rows), 0, self.first, 0)
        return Prompt(self._run(self._kv.embed(ids), lengths, nothing, 0), lengths)

    def place(self, rows: Sequence[Sequence[MemoryBlock]], *, width: int | None = None) -> PlacedBlocks:
        """Put the blocks of each row behind a sink, rotated to their places.

        Args:
            rows: Blocks of all layers, or of the window's.
            width: Memory tokens to pad every row to; the longest row if `None`.
        """
        return self._placed(rows, self.first, self.last, width)

    def read(self, prompt: Prompt, placed: PlacedBlocks) -> Tensor:
        """Read prompts on beside blocks and return the hidden state of each row's last token, normed, `[B, hidden]`."""
        hidden = self._run(prompt.hidden, prompt.lengths, placed, self.first)
        last = hidden[torch.arange(len(hidden), device=hidden.device), prompt.lengths - 1]
        normed: Tensor = self._kv.base.norm(last)
        return normed

    def _placed(self, rows: Sequence[Sequence[MemoryBlock]], first: int, last: int, width: int | None) -> PlacedBlocks:
        full = [[narrowed(block, first, last) for block in (self._kv.sink, *row)] for row in rows]
        longest = max(sum(block.width for block in row) for row in full) if width is None else width + 1
        keys, values, positions = self._kv.gather(full, longest)
        held = self._kv.filled(full, longest)
        if all(block.counts is None for row in full for block in row):
            held = held[:1, :, :1]
        return PlacedBlocks(self._kv.rotate(keys, positions, first=first), values, held)

    def _run(self, hidden: Tensor, lengths: Tensor, placed: PlacedBlocks, first: int) -> Tensor:
        base, device = self._kv.base, hidden.device
        width, group = hidden.shape[1], base.config.num_attention_heads // base.config.num_key_value_heads
        positions = (torch.arange(width, device=device) + self._start)[None]
        turned = base.rotary_emb(hidden, positions)
        steps = torch.arange(width, device=device)
        causal = (steps <= steps[:, None]) & (steps < lengths[:, None, None])  # [B, Q, Q]
        allowed = torch.empty(0)
        for number in range(len(placed.keys)):
            if number == 0 or len(placed.held) > 1:
                held = placed.held[number][:, :, None].expand(-1, -1, width, -1)
                joined = torch.cat([held, causal[:, None].expand(-1, held.shape[1], -1, -1)], dim=-1)
                heads = joined if held.shape[1] == 1 else joined.repeat_interleave(group, dim=1)
                allowed = attention.additive(heads, hidden.dtype)
            cache = _Beside(placed.keys[number], placed.values[number])
            output: Any = base.layers[first + number](
                hidden,
                attention_mask=allowed,
                position_ids=positions,
                position_embeddings=turned,
                use_cache=True,
                **{self._kv.cache_name: cache},
            )
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden


def narrowed(block: MemoryBlock, first: int, last: int) -> MemoryBlock:
    """Return the layers `[first, last)` of a block, which may hold no others."""
    if len(block.keys) == last - first:
        return block
    chosen = slice(first, last)
    return replace(
        block,
        keys=block.keys[chosen],
        values=block.values[chosen],
        positions=block.positions if len(block.positions) == 1 else block.positions[chosen],
        counts=None if block.counts is None else block.counts[chosen],
    )


class _Beside:
    """What a layer takes for its cache: it answers with keys and values that are there, and keeps none."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return what is there and the new ones behind it."""
        return torch.cat([self._keys, keys], dim=2), torch.cat([self._values, values], dim=2)
