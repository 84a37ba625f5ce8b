"""Which sentences of a text are near to what is asked, and whether a text holds what is said."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"\w+", re.UNICODE)
STOPWORDS = frozenset(
    """a an and are as at be by did do does for from had has have he her his i in is it its not of on or our she so
    that the their them then there these they this to was we were what when where which who will with you""".split()
)
"""Words of English that carry no meaning by themselves."""
PERCENT = r"(?:%|\u066a|per ?cent\b|prozent\b|por ciento\b|pour cent\b|per cento\b)"
"""A percent sign, or a word for it; case makes no difference."""
_ENDING = re.compile(r"(ing|ed|es|s|e)$")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])['\"’”)]*\s+|\n\s*\n|(?<=[。！？])")


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each sentence of a text begins and ends."""
    begin = 0
    for start, stop in [*(match.span() for match in _SENTENCE_END.finditer(text)), (len(text), len(text))]:
        if text[begin:start].strip():
            yield start - len(text[begin:start].lstrip()), begin + len(text[begin:start].rstrip())
        begin = stop


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, white space collapsed."""
    return [" ".join(text[start:end].split()) for start, end in sentence_spans(text)]


def closest_sentences(text: str, wanted: str, count: int = 1) -> str:
    """Return the sentences of a text that share most content words with what is wanted, in their order in the text.

    Args:
        text: Where they stand.
        wanted: What is asked, and what is known.
        count: How many; of equals the first ones.
    """
    words, found = content_words(wanted), sentences(text)
    best = sorted(range(len(found)), key=lambda place: (-len(words & content_words(found[place])), place))[:count]
    return " ".join(found[place] for place in sorted(best))


def shared_lines(text: str, wanted: str) -> str:
    """Return the lines of a text that share a content word with what is wanted, white space collapsed."""
    words = content_words(wanted)
    return " ".join(" ".join(line.split()) for line in text.splitlines() if words & content_words(line))


def content_words(text: str) -> set[str]:
    """Return the words that carry meaning, lower case."""
    return {word for word in _WORD.findall(text.lower()) if word not in STOPWORDS}


def is_grounded(reply: str, texts: list[str], question: str = "") -> bool:
    """Return whether a reply says something beyond the question, and all of it in words of the texts.

    English endings of number and tense make no difference.
    """
    said = stems(reply) - stems(question)
    return bool(said) and said <= stems(" ".join(texts))


def stems(text: str) -> set[str]:
    """Return the words that carry meaning, without English endings of number and tense."""
    return {_ENDING.sub("", word) if len(word) > 4 else word for word in content_words(text)}
