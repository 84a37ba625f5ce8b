"""Keys and values in and out of a backbone: the only module that touches transformers' cache.

A transformers cache holds keys after rotary embedding; a memory block holds them before. Here they are
un-rotated when they are taken out and rotated when they are placed, so that a block can stand anywhere.

Every KV state starts with one *sink* token (the backbone's first special token), which attention falls
back to. It sees nothing but itself, so its keys and values are the same in every state: they are
computed once and never stored in a block.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from memrecall_kv.backbone import attention
from memrecall_kv.errors import ContextOverflowError, UnsupportedModelError
from memrecall_kv.types import MemoryBlock

_PROBE_TOLERANCE = 0.05
"""Relative difference below which two key tensors count as equal in the start-up probe, bfloat16 included."""


@dataclass(eq=False)
class KVState:
    """What a batch of rows has read so far; grows as it is read on.

    Attributes:
        cache: The keys and values, placed. Columns of unequal rows are padded.
        mask: True where a column may be attended to. `[B, columns]` bool.
        next_positions: Position of each row's next token. `[B]` int64.
        head_mask: Where the heads of placed blocks hold different numbers of memory tokens: which columns
            of the blocks are real in which head. `[L, B, K, columns of the blocks]` bool.
    """

    cache: DynamicCache
    mask: Tensor
    next_positions: Tensor
    head_mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Prefill:
    """Keys, values and last hidden states of a batch of texts.

    Attributes:
        keys: Un-rotated. `[L, B, K, T, D]`.
        values: `[L, B, K, T, D]`.
        hidden: `[B, T, hidden]`.
    """

    keys: Tensor
    values: Tensor
    hidden: Tensor


class KVAccess:
    """Runs a backbone on memory blocks and text.

    Args:
        model: A causal LM. A probe of a few tokens finds which layers rotate their keys.
        name: For messages.
        sink_id: The token that stands first in every state.
        window: Positions the model was trained for.

    Raises:
        UnsupportedModelError: If keys cannot be un-rotated and placed again.
    """

    def __init__(self, model: PreTrainedModel, *, name: str, sink_id: int, window: int) -> None:
        self._model = cast(Any, model)  # transformers' classes are only partly annotated
        self._name, self._sink_id, self._window = name, sink_id, window
        self.base = self._model.base_model
        self._head = self._model.get_output_embeddings()
        apply = getattr(sys.modules[type(self.base).__module__], "apply_rotary_pos_emb", None)
        if apply is None or not hasattr(self.base, "rotary_emb"):
            raise UnsupportedModelError(
                f"{name}: expected rotary positions, found none in {type(self.base).__name__}.",
                "Choose a backbone with rotary position embedding.",
            )
        self._apply = apply
        # transformers 5.24 renamed it
        self.cache_name = "cache" if "cache" in signature(self.base.forward).parameters else "past_key_values"
        self._cos = self._sin = torch.empty(0)
        self._rotating = torch.ones(model.config.num_hidden_layers, dtype=torch.bool)
        with torch.inference_mode():
            self._rotating = self._probe()
            # at once: later it could be read while some adapter is on, and would hold that adapter's numbers
            self.sink = self._read_sink()

    def _read_sink(self) -> MemoryBlock:
        """Return the block of one token that every state starts with."""
        state = self.start(1)
        self.forward(state, ids=torch.tensor([[self._sink_id]], device=self._model.device))
        keys, values = self.take(state, torch.tensor([0]), torch.zeros(1, 1, dtype=torch.long))
        positions = torch.zeros(1, 1, 1, dtype=torch.int32)
        return MemoryBlock(keys[:, 0], values[:, 0], positions, extent=1, num_source_tokens=0)

    def block_shape(self, layers: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """Return layers, KV heads and numbers a head of a block of some layers, or of all: L, K and D."""
        depth, heads, _, dim = self.sink.keys.shape
        return layers[1] - layers[0] if layers else depth, heads, dim

    @cached_property
    def _head_float32(self) -> tuple[Tensor, Tensor | None]:
        bias = getattr(self._head, "bias", None)
        return self._head.weight.float(), None if bias is None else bias.float()

    def logits(self, hidden: Tensor, *, precise: bool = True) -> Tensor:
        """Return next-token logits, `[..., hidden] -> [..., V]` float32.

        Args:
            hidden: Last hidden states.
            precise: Multiply in float32, so that a score does not round to bfloat16; a third of the speed.
        """
        if not precise or self._model.dtype == torch.float32:
            quick: Tensor = self._head(hidden).float()
            return quick
        weight, bias = self._head_float32
        return torch.nn.functional.linear(hidden.float(), weight, bias)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the input embeddings of token ids, `[...] -> [..., hidden]`."""
        embedded: Tensor = self.base.get_input_embeddings()(ids)
        return embedded

    def start(self, batch: int) -> KVState:
        """Return an empty state of `batch` rows."""
        device = self._model.device
        mask = torch.zeros(batch, 0, dtype=torch.bool, device=device)
        return KVState(DynamicCache(), mask, torch.zeros(batch, dtype=torch.long, device=device))

    def forward(
        self,
        state: KVState,
        *,
        ids: Tensor | None = None,
        embeds: Tensor | None = None,
        lengths: Tensor | None = None,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Read on: append tokens to a state and return their last hidden states.

        Args:
            state: What was read so far; changed in place.
            ids: Token ids, right-padded. `[B, Q]`. Either these or `embeds`.
            embeds: Input embeddings. `[B, Q, hidden]`.
            lengths: Real tokens of each row; all Q if `None`. `[B]`.
            positions: Positions of the new tokens; they follow the state if `None`. `[B, Q]`.
            visible: Which columns, old and new, each new token may attend to; causal over the real
                tokens if `None`. `[B, Q, columns]` bool.

        Returns:
            Hidden states after the final norm. `[B, Q, hidden]`.

        Raises:
            ContextOverflowError: If the text would leave the backbone's window.
        """
        fresh = ids if ids is not None else embeds
        if fresh is None:
            raise TypeError("forward needs ids or embeds")
        batch, width = fresh.shape[:2]
        steps = torch.arange(width, device=fresh.device)
        sizes = torch.full((batch,), width, device=fresh.device) if lengths is None else lengths
        if positions is None:
            positions = state.next_positions[:, None] + steps
            self.check_window(int((state.next_positions + sizes).max()))
            state.next_positions = state.next_positions + sizes
        is_first = state.mask.shape[1] == 0
        state.mask = torch.cat([state.mask, steps < sizes[:, None]], dim=1)
        mask: Tensor | None = state.mask.long()
        if visible is None and state.head_mask is not None:
            visible = attention.causal(state.mask, width)
        if visible is not None:
            mask = attention.additive(visible[:, None], self._model.dtype)
        elif is_first:
            mask = None  # right padding comes after every real token: plain causal attention, the fast kernel
        with attention.masked_by_head(self.base, state.head_mask, visible, self._model.dtype):
            output = self.base(
                input_ids=ids,
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                **{self.cache_name: state.cache},
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    @cached_property
    def reads_together(self) -> bool:
        """Return whether `read_on` works."""
        return attention.can_run_row_by_row(self.base)

    def read_on(self, states: Sequence[KVState], rows: Sequence[Sequence[int]]) -> Tensor:
        """Read on in several states in one forward, and return the last hidden state of each, `[B, hidden]`.

        All tokens go through the linear layers together and attend state by state, so that nothing is padded or moved.
        If it fails, the states are as they were.

        Args:
            states: Of one row each, without padding and head masks; changed in place.
            rows: Token ids of each, one at least.

        Source:
            Orca, OSDI 2022, selective batching.
        """
        device, widths = self._model.device, [len(row) for row in rows]
        ids = torch.tensor([[token for row in rows for token in row]], device=device)  # [1, N]
        steps = [
            state.next_positions + torch.arange(width, device=device)
            for state, width in zip(states, widths, strict=True)
        ]
        seen = [
            torch.cat([state.mask, state.mask.new_ones(1, width)], dim=1)
            for state, width in zip(states, widths, strict=True)
        ]
        masks = [
            None if width == 1 else attention.additive(attention.causal(mask, width)[:, None], self._model.dtype)
            for mask, width in zip(seen, widths, strict=True)
        ]
        is_done = False
        try:
            with attention.row_by_row(self.base, [state.cache for state in states], widths, masks) as rest:
                output = self.base(input_ids=ids, position_ids=torch.cat(steps)[None], use_cache=False, **rest)
            is_done = True
        finally:
            if not is_done:
                for state in states:
                    _cut(state)
        for state, mask, width in zip(states, seen, widths, strict=True):
            state.mask, state.next_positions = mask, state.next_positions + width
        ends = torch.tensor(widths, device=device).cumsum(0) - 1
        hidden: Tensor = output.last_hidden_state[0, ends]
        return hidden

    @contextmanager
    def up_to(self, last: int) -> Iterator[None]:
        """Run only the layers below `last` inside the `with` block; hidden states are those of the last of them."""
        layers = self.base.layers
        self.base.layers = layers[:last]
        try:
            yield
        finally:
            self.base.layers = layers

    def attention_received(self, state: KVState, ids: Tensor, lengths: Tensor, columns: slice) -> Tensor:
        """Read on, and return the most attention that each column got from any of the new tokens.

        Args:
            state: What was read so far; changed in place.
            ids: Token ids, right-padded. `[B, Q]`.
            lengths: Real tokens of each row. `[B]`.
            columns: Which n columns.

        Returns:
            Largest attention weight over new tokens and the query heads of a KV head. `[L, B, K, n]` float32.
        """
        heads = self._model.config.num_key_value_heads
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        with attention.watched(self.base, real, heads, columns) as received:
            self.forward(state, ids=ids, lengths=lengths)
        return torch.stack(received)

    def take(
        self, state: KVState, columns: Tensor, positions: Tensor, layers: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Copy columns out of a state, keys un-rotated; of the layers `[first, last)` if they are given.

        Shapes:
            columns: `[n]`; positions (where the columns were read): `[B or 1, n]`.
            return: keys and values, each `[L, B, K, n, D]`.
        """
        first, last = layers or (0, None)
        cached: Any = state.cache.layers[first:last]
        columns = columns.to(self._model.device)
        keys = torch.stack([layer.keys[:, :, columns] for layer in cached])  # [L, B, K, n, D]
        values = torch.stack([layer.values[:, :, columns] for layer in cached])  # [L, B, K, n, D]
        return self.rotate(keys, positions[None, :, None], inverse=True, first=first), values

    def prefill(self, rows: Sequence[Sequence[int]], layers: tuple[int, int] | None = None) -> Prefill:
        """Read texts side by side, each after a sink, and return what the cache holds of them.

        Args:
            rows: Token ids of B texts of any length, T the longest; shorter ones are padded on the right.
            layers: Read up to `last` and return what the layers `[first, last)` hold; all if `None`.
        """
        width = max(len(row) for row in rows)
        ids, _ = self.pad([[self._sink_id, *row] for row in rows], width + 1)
        state = self.start(len(rows))
        with self.up_to(layers[1]) if layers else nullcontext():
            hidden = self.forward(state, ids=ids)
        columns = torch.arange(1, width + 1)
        keys, values = self.take(state, columns, columns[None], layers)
        return Prefill(keys, values, hidden[:, 1:])

    def place(
        self, rows: Sequence[Sequence[MemoryBlock]], *, width: int | None = None, unrotated: bool = False
    ) -> KVState:
        """Put blocks one after the other at the start of a new state.

        Args:
            rows: The blocks of each of B rows, in order.
            width: Memory tokens to pad every row to; the longest row if `None`.
            unrotated: Leave keys un-rotated and out the sink, as published LycheeMemory checkpoints
                were trained to be read (arXiv:2602.08382, released code).

        Returns:
            A state whose next token follows the last block.
        """
        rows = [list(row) if unrotated else [self.sink, *row] for row in rows]
        sizes = [sum(block.width for block in row) for row in rows]
        longest = max(sizes, default=0) if width is None else width + (not unrotated)
        state = self.start(len(rows))
        state.next_positions += torch.tensor(
            [sum(block.extent for block in row) for row in rows], device=self._model.device
        )
        if longest == 0:
            return state
        keys, values, positions = self.gather(rows, longest)
        if not unrotated:
            keys = self.rotate(keys, positions)
        for layer_idx in range(len(keys)):
            state.cache.update(keys[layer_idx], values[layer_idx], layer_idx)
        filled = torch.arange(longest, device=self._model.device) < torch.tensor(
            sizes, device=self._model.device
        ).unsqueeze(1)
        state.mask = filled
        if any(block.counts is not None for row in rows for block in row):
            state.head_mask = self.filled(rows, longest)
        return state

    def filled(self, rows: Sequence[Sequence[MemoryBlock]], width: int) -> Tensor:
        """Return which columns hold a memory token in which layer and head, `[L, B, K, width]` bool."""
        num_layers, num_heads = rows[0][0].keys.shape[:2]
        filled = torch.zeros(num_layers, len(rows), num_heads, width, dtype=torch.bool, device=self._model.device)
        for row, blocks in enumerate(rows):
            column = 0
            for block in blocks:
                end = column + block.width
                counts = block.width if block.counts is None else block.counts.to(filled.device)[..., None]
                filled[:, row, :, column:end] = torch.arange(block.width, device=filled.device) < counts
                column = end
        return filled

    def gather(self, rows: Sequence[Sequence[MemoryBlock]], width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Copy blocks side by side: keys and values `[L, B, K, width, D]`, positions `[L or 1, B, K or 1, width]`."""
        first = next(block for row in rows for block in row)
        shared = all(block.positions.shape[:2] == (1, 1) for row in rows for block in row)
        num_layers, num_heads, _, head_dim = first.keys.shape
        device, dtype = self._model.device, self._model.dtype
        keys = torch.zeros(num_layers, len(rows), num_heads, width, head_dim, dtype=dtype, device=device)
        values = torch.zeros_like(keys)
        # where layers and heads agree, one row of positions is looked up instead of one for each of them
        depth, heads = (1, 1) if shared else (num_layers, num_heads)
        positions = torch.zeros(depth, len(rows), heads, width, dtype=torch.long, device=device)
        for row, blocks in enumerate(rows):
            column = offset = 0
            for block in blocks:
                end = column + block.width
                keys[:, row, :, column:end] = block.keys.to(device=device, dtype=dtype)
                values[:, row, :, column:end] = block.values.to(device=device, dtype=dtype)
                positions[:, row, :, column:end] = block.positions.to(device).long() + offset
                column, offset = end, offset + block.extent
        return keys, values, positions

    def rotate(self, keys: Tensor, positions: Tensor, *, inverse: bool = False, first: int = 0) -> Tensor:
        """Rotate keys to positions with the backbone's own rotary embedding, or back; `first` is their first layer.

        Shapes:
            keys: `[L, B, K, n, D]`; positions: the same without D, or 1 where a dimension shares them.
            return: `[L, B, K, n, D]` in the dtype of `keys`.
        """
        positions = positions.to(keys.device).long()
        cos, sin = self._tables(int(positions.max()) + 1 if positions.numel() else 1)
        if inverse:
            # some rotary embeddings scale as they rotate; the way back divides by the square
            cos, sin = cos / cos[0, 0] ** 2, -sin / cos[0, 0] ** 2
        places = positions.expand(len(keys), *positions.shape[1:])
        # a layer at a time on a CPU: buffers of all layers are new pages at every call, which costs five times the work
        step = 1 if keys.device.type == "cpu" else len(keys)
        parts = zip(torch.split(keys, step), torch.split(places, step), strict=True)
        turned = torch.cat([self._turned(part, cos[place], sin[place]) for part, place in parts])
        rotating = self._rotating[first : first + len(keys)].to(keys.device)[:, None, None, None, None]
        return turned if bool(rotating.all()) else torch.where(rotating, turned, keys)

    def rotate_rows(self, keys: Tensor, positions: Tensor, layers: Tensor) -> Tensor:
        """Rotate keys of any layers to positions: `[N, K, D]`, `[N, K]` and the layer of each, `[N]`."""
        cos, sin = self._tables(int(positions.max()) + 1 if positions.numel() else 1)
        turned = self._turned(keys, cos[positions], sin[positions])
        rotating = self._rotating.to(keys.device)[layers][:, None, None]
        return turned if bool(rotating.all()) else torch.where(rotating, turned, keys)

    def _turned(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        wide = keys.float().unsqueeze(-2)
        turned: Tensor = self._apply(wide[..., :0, :], wide, cos, sin, unsqueeze_dim=-2)[1]
        return turned.squeeze(-2).to(keys.dtype)

    def pad(self, rows: Sequence[Sequence[int]], width: int | None = None) -> tuple[Tensor, Tensor]:
        """Return ids padded on the right and their lengths, `[B, width]` and `[B]`."""
        longest = max(len(row) for row in rows) if width is None else width
        filled = [[*row, *[self._sink_id] * (longest - len(row))] for row in rows]
        device = self._model.device
        return torch.tensor(filled, device=device), torch.tensor([len(row) for row in rows], device=device)

    def check_window(self, needed: int) -> None:
        """Raise `ContextOverflowError` if so many positions are more than the backbone has."""
        if needed > self._window:
            raise ContextOverflowError(
                f"Blocks, working memory and question need {needed} positions, but {self._name} has {self._window}.",
                "Ask a shorter question, or lower max_memory_tokens, max_readback_tokens or chunk_tokens.",
            )

    def _tables(self, size: int) -> tuple[Tensor, Tensor]:
        """Return cos and sin of positions 0..size-1, `[size, rotary dims]` float32, computed once."""
        if len(self._cos) < size:
            reach = 1 << (size - 1).bit_length()
            positions = torch.arange(reach, device=self._model.device)[None]
            with torch.inference_mode(mode=False):
                cos, sin = self.base.rotary_emb(torch.zeros(1, device=self._model.device), positions)
            self._cos, self._sin = cos[0], sin[0]
        return self._cos, self._sin

    def _probe(self) -> Tensor:
        """Find the layers that rotate, by reading the same tokens at two places, `[L]` bool."""
        size = min(4, self.base.config.vocab_size)
        ids = torch.arange(size, device=self._model.device)[None]
        shift = max(1, min(1000, self._window // 2 - size))
        raw, plain = [], []
        for offset in (0, shift):
            state = self.start(1)
            positions = torch.arange(offset, offset + size, device=self._model.device)[None]
            hidden = self.forward(state, ids=ids, positions=positions)
            layers: Any = state.cache.layers
            raw.append(torch.stack([layer.keys for layer in layers]))
            plain.append(self.rotate(raw[-1], positions[None, :, None], inverse=True))
        rotating = _differs(raw[0], raw[1])
        expected = self._model(input_ids=ids).logits
        off = _differs(plain[0], plain[1]) & rotating
        if bool(off.any()) or bool(_differs(self.logits(hidden), expected.float()).any()):
            raise UnsupportedModelError(
                f"{self._name}: its keys cannot be moved to another position, or its head is not linear.",
                "Choose a backbone such as Llama, Qwen2.5, Qwen3, SmolLM2 or Mistral.",
            )
        return rotating.cpu()


def whole_blocks(prefill: Prefill, rows: Sequence[Sequence[int]]) -> list[MemoryBlock]:
    """Return texts that were read as uncompressed blocks."""
    return [
        MemoryBlock(
            prefill.keys[:, row, :, :size],
            prefill.values[:, row, :, :size],
            torch.arange(size, dtype=torch.int32, device=prefill.keys.device)[None, None],
            extent=size,
            num_source_tokens=size,
        )
        for row, size in enumerate(map(len, rows))
    ]


def _cut(state: KVState) -> None:
    """Leave what was read whole."""
    columns, layers = state.mask.shape[1], cast(Any, state.cache.layers)
    for layer in layers:
        if layer.get_seq_length() > columns:
            layer.keys, layer.values = layer.keys[..., :columns, :], layer.values[..., :columns, :]


def _differs(one: Tensor, other: Tensor) -> Tensor:
    """Return per first dimension whether two tensors differ, relative to their size."""
    gap = (one.float() - other.float()).flatten(1).norm(dim=1)
    size = other.float().flatten(1).norm(dim=1).clamp_min(1e-6)
    differs: Tensor = gap / size > _PROBE_TOLERANCE
    return differs
