"""A reply in the words of the texts: a word that none of them holds is most often one of theirs, misspelt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

_AROUND = ".,;:!?\"'()[]\u201c\u201d\u2018\u2019\u00ab\u00bb\u00bf\u00a1"
_POSSESSIVE = re.compile(r"['\u2019]s$")
_LIKE = 0.8
"""Share of equal characters from which two spellings are taken for one."""
_SHORTEST = 5
"""Characters of a reply; what is shorter is like too much."""
_LONGEST = 12
"""Words of a reply; what is longer is worded freely."""


def as_written(reply: str, texts: Sequence[str]) -> str:
    """Return a reply as the texts write it, where they hold all of it but for the spelling of some words.

    A small model writes "14 heres" and "Elise" for "14 heures" and "\u00c9lise", above all in languages it has seen
    little of. Words that a text holds stay, and so do digits.

    Args:
        reply: What was answered.
        texts: What was read for it.
    """
    said = [_plain(word) for word in reply.split()]
    held = {_plain(word) for text in texts for word in text.split()}
    if len(" ".join(said)) < _SHORTEST or len(said) > _LONGEST or held.issuperset(said):
        return reply
    matcher, nearest, best = SequenceMatcher(b=_unaccented(" ".join(said)), autojunk=False), 0.0, reply
    for text in texts:
        words = [match.span() for match in re.finditer(r"\S+", text)]
        for first, last in zip(words, words[len(said) - 1 :], strict=False):
            written = _POSSESSIVE.sub("", text[first[0] : last[1]].strip(_AROUND))
            found = [_plain(word) for word in written.split()]
            if len(found) != len(said) or not all(map(_may_be, said, found, (word in held for word in said))):
                continue
            matcher.set_seq1(_unaccented(" ".join(found)))
            if matcher.real_quick_ratio() > nearest and matcher.quick_ratio() > nearest:
                nearest, best = max((nearest, best), (matcher.ratio(), written), key=lambda pair: pair[0])
    return best if nearest >= _LIKE else reply


def _may_be(said: str, written: str, is_held: bool) -> bool:
    """Return whether a word may stand for another: not for one that the texts hold, and not with other digits."""
    return said == written or (not is_held and re.sub(r"\D", "", said) == re.sub(r"\D", "", written))


def _plain(word: str) -> str:
    return word.casefold().strip(_AROUND)


def _unaccented(text: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFKD", text) if not unicodedata.combining(part))
