"""A document's heading in the share that it may take of a chunk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeAlias

from memrecall_kv.types import Heading

TokenSpans: TypeAlias = Callable[[str], Sequence[tuple[int, int]]]
"""A tokenizer: the span of characters `[start, end)` of every token of a text, in order."""


def shortened(heading: Heading, token_spans: TokenSpans, limit: int) -> Heading:
    """Return a heading whose texts take at most `limit` tokens each, a token or two more where they join.

    What is too long loses the ends of its longest lines: a summary gives way before a title does.
    """
    judged = _cut(heading.judged, token_spans, limit)
    return Heading(judged, judged if heading.read == heading.judged else _cut(heading.read, token_spans, limit))


def behind(heading: Heading, token_spans: TokenSpans) -> TokenSpans:
    """Return a tokenizer that counts a text with the heading in front, and places tokens in the text alone.

    Of the text as it is judged and as it is read, the one with more tokens counts.
    """
    leads = list(dict.fromkeys([heading.judged, heading.read]))
    if leads == [""]:
        return token_spans

    def spans(text: str) -> Sequence[tuple[int, int]]:
        found = [
            [(max(start - len(lead), 0), max(end - len(lead), 0)) for start, end in token_spans(lead + text)]
            for lead in leads
        ]
        return max(found, key=len)

    return spans


def _cut(text: str, token_spans: TokenSpans, limit: int) -> str:
    whole = token_spans(text)
    if len(whole) <= limit:
        return text
    lines = [(line, token_spans(line)) for line in text.split("\n")]

    def joined(longest: int) -> str:
        return "\n".join(line if len(spans) <= longest else line[: spans[longest][0]].rstrip() for line, spans in lines)

    fitting = bisect_right(range(1, limit + 1), limit, key=lambda longest: len(token_spans(joined(longest))))
    # more lines than tokens: the first ones
    return joined(fitting) if fitting else text[: whole[limit][0]]
