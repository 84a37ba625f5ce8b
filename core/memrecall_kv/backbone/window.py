"""A part of a backbone's layers, run on hidden states: what judges a block need not see it in every layer.

Layers below the window read a prompt without any block, once for all blocks; those of the window read on beside
each block; those above are not run. What this costs and finds: docs/decisions/0015.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from memrecall_kv.backbone import attention
from memrecall_kv.backbone.kv import KVAccess
from memrecall_kv.backbone.lora import LoraAdapter
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
        keys: Of all tokens in the window's layers, none of which saw a block. `[N, B, K, T, D]`.
        values: `[N, B, K, T, D]`.
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
        keys, values = self.keys[:, index], self.values[:, index]
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
    """

    def __init__(self, kv: KVAccess, first: int, last: int, *, start: int) -> None:
        depth = len(kv.base.layers)
        if not 0 <= first < last <= depth:
            raise InputError(f"Expected layers within 0 and {depth}, got {first} to {last}.", "Choose first < last.")
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
            self._placed([[]] * len(rows), *part, 0) for part in ((0, self.first), (self.first, self.last))
        )
        # rows are padded on the right: causal attention alone keeps real tokens from the others
        hidden = self._run(self._kv.embed(ids), positions, 0, below)
        own: list[tuple[Tensor, Tensor]] = []
        self._run(hidden, positions, self.first, inside, own=own)
        keys, values = (torch.stack(parts) for parts in zip(*own, strict=True))
        return ReadPrompt(hidden, positions[0], lengths, keys, values)

    def place(self, rows: Sequence[Sequence[MemoryBlock]], *, width: int | None = None) -> PlacedBlocks:
        """Put the blocks of each row behind a sink, rotated to their places.

        Args:
            rows: Blocks of all layers, or of the window's.
            width: Memory tokens to pad every row to; the longest row if `None`.
        """
        return self._placed(rows, self.first, self.last, width)

    def read(self, prompt: Prompt, placed: PlacedBlocks) -> Tensor:
        """Read prompts on beside blocks and return the hidden state of each row's last token, normed, `[B, hidden]`."""
        hidden = self._run(prompt.hidden, prompt.positions, self.first, placed, prompt)
        normed: Tensor = self._kv.base.norm(hidden[:, -1])
        return normed

    def _placed(self, rows: Sequence[Sequence[MemoryBlock]], first: int, last: int, width: int | None) -> PlacedBlocks:
        full = [[narrowed(block, first, last) for block in (self._kv.sink, *row)] for row in rows]
        longest = max(sum(block.width for block in row) for row in full) if width is None else width + 1
        keys, values, positions = self._kv.gather(full, longest)
        held = self._kv.filled(full, longest)
        if all(block.counts is None for row in full for block in row):
            held = held[:1, :, :1]
        return PlacedBlocks(self._kv.rotate(keys, positions, first=first), values, held)

    def _run(
        self,
        hidden: Tensor,
        positions: Tensor,
        first: int,
        placed: PlacedBlocks,
        prompt: Prompt | None = None,
        own: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Run the layers from `first` on, as many as are placed, `[B, Q, hidden]`; `own` gets what each would keep."""
        base, width = self._kv.base, hidden.shape[1]
        group = base.config.num_attention_heads // base.config.num_key_value_heads
        turned = base.rotary_emb(hidden, positions)
        steps = torch.arange(width, device=hidden.device)
        among = (steps <= steps[:, None]).expand(len(hidden), -1, -1)  # [B, Q, Q]
        after = among if prompt is None else torch.cat([prompt.seen, among], dim=-1)
        allowed = torch.empty(0)
        for number in range(len(placed.keys)):
            if number < len(placed.held):
                held = placed.held[number][:, :, None].expand(-1, -1, width, -1)  # [B, K or 1, Q, C]
                seen = torch.cat([held, after[:, None].expand(-1, held.shape[1], -1, -1)], dim=-1)
                heads = seen if seen.shape[1] == 1 else seen.repeat_interleave(group, dim=1)
                allowed = attention.additive(heads, hidden.dtype)
            there = [(placed.keys[number], placed.values[number])]
            if prompt is not None:
                there.append((prompt.keys[number], prompt.values[number]))
            output: Any = self._layers[first + number](
                hidden,
                attention_mask=allowed,
                position_ids=positions,
                position_embeddings=turned,
                use_cache=True,
                **{self._kv.cache_name: _Beside(there, own)},
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
    """What a layer takes for its cache: it answers with what is there and what is new, and tells `own` of the new."""

    def __init__(self, there: Sequence[tuple[Tensor, Tensor]], own: list[tuple[Tensor, Tensor]] | None) -> None:
        self._there, self._own = there, own

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return what is there and the new ones behind it."""
        if self._own is not None:
            self._own.append((keys, values))
        there_keys, there_values = zip(*self._there, strict=True)
        return torch.cat([*there_keys, keys], dim=2), torch.cat([*there_values, values], dim=2)
