"""Decoding after what was read: tokens row by row, whole replies, and text as it grows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import KVState

Choose = Callable[[Tensor], Tensor]
"""Returns the next token of every row from last hidden states, `[B, hidden] -> [B]` int64."""
Tuned = Callable[[], AbstractContextManager[None]]
"""Entered around every forward, for deltas that must not be on between two tokens."""
Pick = Callable[[Tensor], int]
"""Returns the next token of one row from its logits, `[V]` float32."""
_AT_ONCE = 1024
"""Tokens of all rows that are read in one forward; of one row there may be more."""


@dataclass(eq=False)
class _Row:
    """A text that is being written.

    Attributes:
        state: What was read of it.
        due: What is to be read next; empty once it was.
        reach: Positions it takes with that.
        logits: Of the token after what was read. `[V]`.
    """

    state: KVState
    due: list[int]
    reach: int
    logits: Tensor | None = None


class Rows:
    """Texts that are written at the same time, each step by step in turns of the backbone's scheduler.

    A forward, in whoever's turn it is, reads what is due of all: prompts, and tokens that were chosen. Questions that
    are asked at once share it, whatever they are about; one alone makes the forwards it would make anyway. A text whose
    reader pauses is read on by one step at most, and one that is closed no more.

    Source: Orca, OSDI 2022, iteration-level scheduling.

    Args:
        backbone: The model.
        tuned: See `Tuned`.
    """

    def __init__(self, backbone: Backbone, tuned: Tuned = nullcontext) -> None:
        self._backbone, self._tuned = backbone, tuned
        self._open: list[_Row] = []

    def write(
        self, state: KVState, prompt: Sequence[int], max_new_tokens: int, pick: Pick | None = None
    ) -> Generator[int | None, None, None]:
        """Read a prompt, then choose and read one token after the other; every step in a turn.

        Args:
            state: What was read so far, one row; changed in place.
            prompt: Token ids.
            max_new_tokens: Most tokens that are written.
            pick: Chooses tokens; greedily if `None`.

        Yields:
            `None` before anything is read, so that others can add their prompts; then the tokens, without the one that
            ends the text.

        Raises:
            ContextOverflowError: If the text would leave the backbone's window.
        """
        row = _Row(state, list(prompt), int(state.next_positions[0]) + len(prompt))
        self._open.append(row)
        try:
            yield None
            for step in range(max_new_tokens):
                with torch.inference_mode():
                    logits = self._read(row)
                    token = int(logits.argmax()) if pick is None else pick(logits)
                if token in self._backbone.stop_ids:
                    return
                if step + 1 < max_new_tokens:
                    row.due, row.reach = [token], row.reach + 1
                yield token
        finally:
            self._open.remove(row)

    def _read(self, row: _Row) -> Tensor:
        """Return a row's logits; if they are not there yet, read what is due of it and of others."""
        if not row.due and row.logits is not None:
            return row.logits
        kv = self._backbone.kv
        kv.check_window(row.reach)
        rows = [row, *self._others(row)]
        with self._tuned():
            if len(rows) == 1:
                last = kv.forward(row.state, ids=torch.tensor([row.due], device=self._backbone.device))[:, -1]
            else:
                last = kv.read_on([each.state for each in rows], [each.due for each in rows])
        found = kv.logits(last)
        for each, logits in zip(rows, found, strict=True):
            each.due, each.logits = [], logits
        return found[0]

    def _others(self, row: _Row) -> Iterator[_Row]:
        """Yield what is read along with a row: the first that are due, as many as go into one forward."""
        if not self._backbone.kv.reads_together or row.state.head_mask is not None:
            return
        tokens = len(row.due)
        for other in tuple(self._open):
            fits = other.reach <= self._backbone.window and other.state.head_mask is None
            if other is not row and other.due and fits and tokens + len(other.due) <= _AT_ONCE:
                tokens += len(other.due)
                yield other


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


def among(backbone: Backbone, replies: Iterable[Sequence[int]]) -> Pick:
    """Return how the next token is picked, greedily, so that it writes one of some replies.

    Args:
        backbone: The model.
        replies: Token ids of each; a stop token is put behind.
    """
    left, place = [(*reply, backbone.end_id) for reply in replies], 0

    def likeliest(logits: Tensor) -> int:
        nonlocal left, place
        allowed = sorted({reply[place] for reply in left})
        chosen = allowed[int(logits[allowed].argmax())]
        left, place = [reply for reply in left if reply[place] == chosen], place + 1
        return chosen

    return likeliest


def leaning(reply: Sequence[int], bias: float) -> Pick:
    """Return how the next token is picked, greedily, but that one reply is begun more readily than its logit says.

    Args:
        reply: Token ids.
        bias: Added to the logit of its first token where a text begins, nats.
    """
    begins = True

    def likeliest(logits: Tensor) -> int:
        nonlocal begins
        if begins:
            begins, logits = False, logits.clone()
            logits[reply[0]] += bias
        return int(logits.argmax())

    return likeliest


def generate(
    backbone: Backbone,
    state: KVState,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    tuned: Tuned = nullcontext,
) -> Iterator[list[int | None]]:
    """Read a prompt per row and decode greedily; arguments as in `decode`.

    Yields:
        One token id per row and step; `None` for a row that has ended. Stops when all have.
    """
    stops = backbone.stop_ids
    ended = [False] * len(prompts)

    def likeliest(last: Tensor) -> Tensor:
        return backbone.kv.logits(last).argmax(dim=-1)

    for tokens in decode(backbone, state, prompts, max_new_tokens, likeliest, tuned):
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


def growing_text(
    backbone: Backbone, tokens: Iterable[int], *, one_line: bool = False, every_token: bool = False
) -> Iterator[str]:
    """Yield the whole text so far after each token; characters of several tokens come whole.

    Args:
        backbone: Whose tokens they are.
        tokens: They are asked for one at a time.
        one_line: Leave out space before the text, and stop at the end of its first line.
        every_token: Yield also after a token that ends in the midst of a character: the text before it.
    """
    ids: list[int] = []
    whole = ""
    for token in tokens:
        ids.append(token)
        text, newline = backbone.decode(ids), ""
        if one_line:
            text, newline, _ = text.lstrip().partition("\n")
        is_whole = newline or not text.endswith("\N{REPLACEMENT CHARACTER}")
        whole = text if is_whole else whole
        if is_whole or every_token:
            yield whole
        if newline:
            return
