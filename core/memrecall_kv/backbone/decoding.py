"""Greedy decoding after what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import KVState


def generate(
    backbone: Backbone,
    state: KVState,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    tuned: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[list[int | None]]:
    """Read a prompt per row and decode greedily.

    Args:
        backbone: The model.
        state: What was read so far; changed in place.
        prompts: Token ids of each row.
        max_new_tokens: Most tokens that are decoded.
        tuned: Entered around every forward, for deltas that must not be on between two tokens.

    Yields:
        One token id per row and step; `None` for a row that has ended. Stops when all have.
    """
    ids, lengths = backbone.kv.pad(prompts)
    stops = backbone.stop_ids
    ended = [False] * len(prompts)
    with torch.inference_mode(), tuned():
        hidden = backbone.kv.forward(state, ids=ids, lengths=lengths)
        last = hidden[torch.arange(len(prompts)), lengths - 1]
    for step in range(max_new_tokens):
        with torch.inference_mode():
            chosen = backbone.kv.logits(last).argmax(dim=-1)
        tokens = chosen.tolist()
        ended = [over or token in stops for over, token in zip(ended, tokens, strict=True)]
        if all(ended):
            return
        yield [None if over else token for over, token in zip(ended, tokens, strict=True)]
        if step + 1 < max_new_tokens:
            with torch.inference_mode(), tuned():
                last = backbone.kv.forward(state, ids=chosen[:, None])[:, 0]
