"""Decoding after what was read: tokens row by row, whole replies, and text as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import KVState

Choose = Callable[[Tensor], Tensor]
"""Returns the next token of every row from last hidden states, `[B, hidden] -> [B]` int64."""
Tuned = Callable[[], AbstractContextManager[None]]
"""Entered around every forward, for deltas that must not be on between two tokens."""


def decode(
    backbone: Backbone,
    state: KVState,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    choose: Choose,
    tuned: Tuned = nullcontext,
) -> Iterator[list[int]]:
    """Read a prompt per row, then choose and read one token after the other.

    Args:
        backbone: The model.
        state: What was read so far; changed in place.
        prompts: Token ids of each row.
        max_new_tokens: Most tokens that are decoded.
        choose: Chooses the tokens.
        tuned: See `Tuned`.

    Yields:
        One token id per row and step, whatever stood before it: who has read enough of them stops.
    """
    kv = backbone.kv
    ids, lengths = kv.pad(prompts)
    with torch.inference_mode(), tuned():
        hidden = kv.forward(state, ids=ids, lengths=lengths)
        last = hidden[torch.arange(len(prompts)), lengths - 1]
    for step in range(max_new_tokens):
        with torch.inference_mode():
            chosen = choose(last)
        yield chosen.tolist()
        if step + 1 < max_new_tokens:
            with torch.inference_mode(), tuned():
                last = kv.forward(state, ids=chosen[:, None])[:, 0]


def sample(backbone: Backbone, temperature: float, generator: torch.Generator) -> Choose:
    """Return how tokens are drawn from the model's distribution at a temperature."""

    def draw(last: Tensor) -> Tensor:
        shares = torch.softmax(backbone.kv.logits(last, precise=False) / temperature, dim=-1)
        return torch.multinomial(shares.cpu(), 1, generator=generator)[:, 0].to(last.device)

    return draw


def among(backbone: Backbone, replies: Iterable[Sequence[int]]) -> Choose:
    """Return how one row's next token is chosen, greedily, so that it writes one of some replies.

    Args:
        backbone: The model.
        replies: Token ids of each; a stop token is put behind.
    """
    left, place = [(*reply, backbone.end_id) for reply in replies], 0

    def likeliest(last: Tensor) -> Tensor:
        nonlocal left, place
        allowed = sorted({reply[place] for reply in left})
        chosen = allowed[int(backbone.kv.logits(last)[0, allowed].argmax())]
        left, place = [reply for reply in left if reply[place] == chosen], place + 1
        return torch.tensor([chosen], device=last.device)

    return likeliest


def generate(
    backbone: Backbone,
    state: KVState,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    tuned: Tuned = nullcontext,
    choose: Choose | None = None,
) -> Iterator[list[int | None]]:
    """Read a prompt per row and decode, greedily unless told how to `choose`; arguments as in `decode`.

    Yields:
        One token id per row and step; `None` for a row that has ended. Stops when all have.
    """
    stops = backbone.stop_ids
    ended = [False] * len(prompts)

    def likeliest(last: Tensor) -> Tensor:
        return backbone.kv.logits(last).argmax(dim=-1)

    for tokens in decode(backbone, state, prompts, max_new_tokens, choose or likeliest, tuned):
        ended = [over or token in stops for over, token in zip(ended, tokens, strict=True)]
        if all(ended):
            return
        yield [None if over else token for over, token in zip(ended, tokens, strict=True)]


def replies(
    backbone: Backbone,
    state: KVState,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    tuned: Tuned = nullcontext,
) -> list[list[int]]:
    """Return what each row generates, without the token that ends it; arguments as in `decode`."""
    written: list[list[int]] = [[] for _ in prompts]
    for tokens in generate(backbone, state, prompts, max_new_tokens, tuned):
        for ids, token in zip(written, tokens, strict=True):
            if token is not None:
                ids.append(token)
    return written


def growing_text(backbone: Backbone, tokens: Iterable[int], *, one_line: bool = False) -> Iterator[str]:
    """Yield the whole text so far after each token; characters of several tokens come whole.

    Args:
        backbone: Whose tokens they are.
        tokens: They are asked for one at a time.
        one_line: Leave out space before the text, and stop at the end of its first line.
    """
    ids: list[int] = []
    for token in tokens:
        ids.append(token)
        text, newline = backbone.decode(ids), ""
        if one_line:
            text, newline, _ = text.lstrip().partition("\n")
        if newline or not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text
        if newline:
            return
