"""Which parts of a text an answer is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from memrecall_kv.recall.grounding import content_words

_LONGEST = 1_000
"""Characters of an answer."""
_WORDS = 40
"""Of an answer that may stand in a text as a whole."""
_WORD = re.compile(r"\w+")


def marked(text: str, answer: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of a text that say what the answer says, in order: itself if it stands there, else its words.

    Args:
        text: What was read.
        answer: What was said; of a long one the beginning is looked for.
    """
    said, wanted = _WORD.findall(answer[:_LONGEST]), content_words(answer[:_LONGEST])
    if not wanted:
        return
    # what may stand between two words is never tried in parts
    whole = re.compile(r"\b" + r"\W++".join(map(re.escape, said[:_WORDS])) + r"\b", re.IGNORECASE)
    if len(said) <= _WORDS and whole.search(text):
        yield from (match.span() for match in whole.finditer(text))
    else:
        yield from _joined(text, _of_words(text, wanted), {word.lower() for word in said})


def _of_words(text: str, words: set[str]) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _WORD.finditer(text) if match[0].lower() in words)


def _joined(text: str, spans: Iterable[tuple[int, int]], said: set[str]) -> Iterator[tuple[int, int]]:
    """Join neighbours between which nothing stands that the answer does not say too."""
    last: tuple[int, int] | None = None
    for start, end in spans:
        if last is not None and {word.lower() for word in _WORD.findall(text[last[1] : start])} <= said:
            last = (last[0], end)
            continue
        if last is not None:
            yield last
        last = (start, end)
    if last is not None:
        yield last
