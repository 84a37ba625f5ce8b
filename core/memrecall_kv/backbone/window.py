"""A part of a backbone's layers, run on hidden states: what judges a block need not see it in every layer.

Layers below the window read a prompt without any block, once for all blocks; those of the window read on beside
each block; those above are not run. What this costs and finds: docs/decisions/0015.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from memrecall_kv.backbone import attention
from memrecall_kv.backbone.kv import KVAccess
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.errors import InputError, UnsupportedModelError
from memrecall_kv.types import MemoryBlock

_BUCKET = 16
"""Columns of a layer are padded to a multiple of this, so that like blocks meet like shapes."""


@dataclass(frozen=True, eq=False)
class PlacedRow:
    """Blocks behind a sink, as the window's layers read them: nothing is left to be done when they are read again.

    A layer has as many columns as its fullest head holds: budgets across heads leave most layers a few.

    Attributes:
        keys: Of each layer, rotated to where they stand. `[K, C, D]`.
        values: `[K, C, D]`.
        held: Which columns a head holds. `[K, C]` bool.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    held: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory that it takes."""
        return sum(tensor.nbytes for tensors in (self.keys, self.values, self.held) for tensor in tensors)


@dataclass(frozen=True, eq=False)
class _Layer:
    """Rows side by side in one layer; 0 in `held` where a head holds a column, the lowest number elsewhere.

    `[B, K, C, D]` twice, and `[B, K, 1, C]`.
    """

    keys: Tensor
    values: Tensor
    held: Tensor


@dataclass(frozen=True, eq=False)
class ReadPrompt:
    """Prompts that were read without a block, before it is said which of their tokens are to see one.

    Attributes:
        hidden: All tokens as they enter the window. `[B, T, hidden]`.
        positions: Where they stand. `[T]`.
        lengths: Tokens of each prompt; what is behind them is padding. `[B]`.
        keys: Of all tokens in the window's layers. `[N, B, K, T, D]`.
        values: `[N, B, K, T, D]`.
    """

    hidden: Tensor
    positions: Tensor
    lengths: Tensor
    keys: Tensor
    values: Tensor

    def seen_by(self, seeing: Sequence[Sequence[int]]) -> Prompt:
        """Return the prompts with these tokens of each to see a block.

        Args:
            seeing: In order, as many in every row, the last one of each among them.
        """
        device = self.hidden.device
        chosen = torch.tensor(seeing, device=device)  # [B, Q]
        steps = torch.arange(self.hidden.shape[1], device=device)
        blind = (steps < self.lengths[:, None]).scatter(1, chosen, value=False)  # [B, T]
        seen = blind[:, None] & (steps < chosen[..., None])
        hidden = self.hidden[torch.arange(len(chosen), device=device)[:, None], chosen]
        return Prompt(hidden, self.positions[chosen], self.keys, self.values, seen)


@dataclass(frozen=True, eq=False)
class Prompt:
    """Prompts as far as they are read without a block.

    Attributes:
        hidden: The tokens that are to see blocks, as they enter the window. `[B, Q, hidden]`.
        positions: Where those stand. `[B, Q]`.
        keys: Of all tokens in the window's layers, none of which saw a block. `[N, B, K, T, D]`, or 1 for B where
            all rows have one prompt.
        values: The same.
        seen: Which of them each token of `hidden` looks at: those before it that see no block. `[B, Q, T]` bool.
    """

    hidden: Tensor
    positions: Tensor
    keys: Tensor
    values: Tensor
    seen: Tensor

    def rows(self, numbers: Sequence[int]) -> Prompt:
        """Return rows by number, as often as they are named."""
        index = torch.tensor(numbers, device=self.hidden.device)
        own = index[:1] if len({*numbers}) == 1 else index
        keys, values = self.keys[:, own], self.values[:, own]
        return Prompt(self.hidden[index], self.positions[index], keys, values, self.seen[index])


class LayerWindow:
    """Layers `[first, last)` for blocks, and the prompts that judge them.

    Args:
        kv: The backbone's.
        first: Layers below it see no block.
        last: The first layer that is not run.
        start: Where prompts stand: the same place behind every block.

    Raises:
        InputError: If the backbone has no such layers.
        UnsupportedModelError: If its attention cannot be chosen.
    """

    def __init__(self, kv: KVAccess, first: int, last: int, *, start: int) -> None:
        depth = len(kv.base.layers)
        if not 0 <= first < last <= depth:
            raise InputError(f"Expected layers within 0 and {depth}, got {first} to {last}.", "Choose first < last.")
        if not kv.base._supports_attention_backend:
            raise UnsupportedModelError(
                f"{type(kv.base).__name__} does not let its attention be chosen.",
                "Leave out gate.layers, or choose a backbone such as Llama or Qwen.",
            )
        self.first, self.last = first, last
        self._kv, self._start = kv, start
        self._layers = list(kv.base.layers[:last])

    def with_deltas(self, model: nn.Module, adapter: LoraAdapter) -> LayerWindow:
        """Return the same window of copies that hold an adapter's deltas; layers below it remain the backbone's."""
        made = copy.copy(self)
        made._layers = [
            layer if number < self.first else adapter.merged(model, layer) for number, layer in enumerate(self._layers)
        ]
        return made

    def read_prompt(self, rows: Sequence[Sequence[int]]) -> ReadPrompt:
        """Read prompts without a block, as far as the window's last layer; each row holds the token ids of one.

        Raises:
            ContextOverflowError: If one would leave the backbone's window.
        """
        self._kv.check_window(self._start + max(map(len, rows)))
        ids, lengths = self._kv.pad(rows)
        device = ids.device
        steps = torch.arange(ids.shape[1], device=device)
        positions = (steps + self._start)[None]
        below, inside = (
            _side_by_side([self._placed((), *part)] * len(rows)) for part in ((0, self.first), (self.first, self.last))
        )
        # rows are padded on the right: causal attention alone keeps real tokens from the others
        hidden = self._run(self._kv.embed(ids), positions, 0, below)
        own: list[tuple[Tensor, Tensor]] = []
        self._run(hidden, positions, self.first, inside, own=own)
        keys, values = (torch.stack(parts) for parts in zip(*own, strict=True))
        return ReadPrompt(hidden, positions[0], lengths, keys, values)

    def place(self, blocks: Sequence[MemoryBlock]) -> PlacedRow:
        """Put blocks, of all layers or of the window's, behind a sink, rotated to where they stand for any prompt."""
        return self._placed(blocks, self.first, self.last)

    def read(self, prompt: Prompt, rows: Sequence[PlacedRow]) -> Tensor:
        """Read prompts on beside rows and return the hidden state of each one's last token, normed, `[B, hidden]`."""
        hidden = self._run(prompt.hidden, prompt.positions, self.first, _side_by_side(rows), prompt)
        normed: Tensor = self._kv.base.norm(hidden[:, -1])
        return normed

    def _placed(self, blocks: Sequence[MemoryBlock], first: int, last: int) -> PlacedRow:
        if first == last:
            return PlacedRow((), (), ())
        row = [narrowed(block, first, last) for block in (self._kv.sink, *blocks)]
        width = sum(block.width for block in row)
        held = self._kv.filled([row], width)[:, 0]  # [L, K, columns]
        keys, values, positions = (tensor[:, 0] for tensor in self._kv.gather([row], width))
        kept = held.any(dim=1)  # [L, columns]
        sizes, layers = kept.sum(dim=1).tolist(), kept.nonzero()[:, 0] + first
        keys, values = (tensor.transpose(1, 2)[kept] for tensor in (keys, values))  # [N, K, D]
        places = positions.expand(held.shape).transpose(1, 2)[kept]
        keys = self._kv.rotate_rows(keys, places, layers)
        tensors = (keys, values, held.transpose(1, 2)[kept])
        parts = ([part.transpose(0, 1).contiguous() for part in torch.split(tensor, sizes)] for tensor in tensors)
        return PlacedRow(*parts)

    def _run(
        self,
        hidden: Tensor,
        positions: Tensor,
        first: int,
        placed: Sequence[_Layer],
        prompt: Prompt | None = None,
        own: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Run the layers from `first` on, as many as are placed, `[B, Q, hidden]`; `own` gets what each would keep."""
        turned = self._kv.base.rotary_emb(hidden, positions)
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        among = attention.additive(steps <= steps[:, None], hidden.dtype)[None, None]  # [1, 1, Q, Q]
        seen = None if prompt is None else attention.additive(prompt.seen[:, None], hidden.dtype)  # [B, 1, Q, T]
        layers = self._layers[first : first + len(placed)]
        with attention.beside(layers):
            for number, layer in enumerate(layers):
                there = [(placed[number].keys, placed[number].values, placed[number].held)]
                if prompt is not None and seen is not None:
                    there.append((prompt.keys[number], prompt.values[number], seen))
                output: Any = layer(
                    hidden,
                    attention_mask=None,
                    position_ids=positions,
                    position_embeddings=turned,
                    use_cache=False,
                    beside=attention.Beside(there, among, own),
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


def _side_by_side(rows: Sequence[PlacedRow]) -> list[_Layer]:
    """Copy rows into batches, one for each layer, as wide as the widest of them."""
    return [_layer(*each) for each in zip(*(zip(r.keys, r.values, r.held, strict=True) for r in rows), strict=True)]


def _layer(*rows: tuple[Tensor, Tensor, Tensor]) -> _Layer:
    (num_heads, _, head_dim), like = rows[0][0].shape, rows[0][0]
    width = math.ceil(max(keys.shape[1] for keys, *_ in rows) / _BUCKET) * _BUCKET
    keys, values = (like.new_zeros(len(rows), num_heads, width, head_dim) for _ in range(2))
    held = torch.zeros(len(rows), num_heads, width, dtype=torch.bool, device=like.device)
    for number, row in enumerate(rows):
        for whole, part in zip((keys, values, held), row, strict=True):
            whole[number, :, : part.shape[1]] = part
    return _Layer(keys, values, attention.additive(held, like.dtype)[:, :, None])
