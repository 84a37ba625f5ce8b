"""What of a question is read: all of it, unless it is a pasted mail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_GAP = " ... "
"""Stands for what is left out."""
_CHARACTERS = 64
"""Characters of a token at most, as far as the first look is concerned: what is left out need not be tokenized."""
_WINDOW_SHARE = 4
"""A question takes a quarter of the window at most: a block, notes and the opened texts are read beside it."""


def bounded(
    question: str, token_spans: Callable[[str], Sequence[tuple[int, int]]], max_tokens: int, *, window: int
) -> str:
    """Return a question of at most so many tokens: of a longer one its beginning and its end, half each.

    Who pastes a text asks before or after it; the middle is what the question is about, and mostly not the question.

    Args:
        question: As it was asked.
        token_spans: Returns the span of characters of each token of a text.
        max_tokens: Tokens that are read at most.
        window: Positions of the backbone.
    """
    limit = max(2, min(max_tokens, window // _WINDOW_SHARE))
    reach = _CHARACTERS * limit
    if len(question) > 2 * reach:
        question = f"{question[:reach]}{_GAP}{question[-reach:]}"
    spans = token_spans(question)
    if len(spans) <= limit:
        return question
    kept = max(2, limit - len(token_spans(_GAP)))
    # up to where the first token that is left out begins: a character of several tokens is kept whole, or not
    head, tail = question[: spans[kept - kept // 2][0]], question[spans[-(kept // 2) - 1][1] :]
    return f"{head.rstrip()}{_GAP}{tail.lstrip()}"
