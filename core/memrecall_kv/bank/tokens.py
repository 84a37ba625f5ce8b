"""A text as the candidate index counts it: words without case, accents, width and endings, in whatever script.

Sources: stems of Snowball, https://snowballstem.org; pairs of letters for scripts without spaces, as in Foo and Li,
Chinese Word Segmentation and Its Effect on Information Retrieval, 2004. Deviation: a word tells its script and not its
language, so that all of Latin script loses English endings; `stump` finds the forms that this leaves apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import Stemmer  # type: ignore[import-not-found]  # ships no types

VERSION = f"1 {Stemmer.version()}"
"""Of what `tokens` returns; an index made by another one is made anew."""

_UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u1aaf\u3040-\u30ff\u3400-\ua4cf\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai to Myanmar, Khmer, Tai, Japanese, Chinese, Yi, and Korean, which joins its particles to its words."""
_INDIC = "\u0900-\u0963\u0966-\u0dff"
"""Scripts whose vowel signs are no letters to Python."""
_RUN = re.compile(rf"[{_UNSPACED}]+|(?:[^\W_{_UNSPACED}]|[{_INDIC}])+")
_ASCII_RUN = re.compile("[a-z0-9]+")
_SIGNS = re.compile(r"(?<![\u0400-\u04ff])[\u0300-\u036f]+|[\u0591-\u05c7\u064b-\u065f\u0670]+")
"""Accents, and the points of Hebrew and Arabic; a Cyrillic letter with one is a letter of its own."""
_FEW_NAMES = 3
"""Fewer names, numbers and such do not say what a text is about."""
_LONGEST = 64
"""Characters of a word that count."""

_ALGORITHMS = (
    ("\u0370", "english"),
    ("\u0400", "greek"),
    ("\u0530", "russian"),
    ("\u0590", "armenian"),
    ("\u0600", "yiddish"),
    ("\u0700", "arabic"),
    ("\u0900", ""),
    ("\u0980", "hindi"),
    ("\u0b80", ""),
    ("\u0c00", "tamil"),
)
"""Up to which first letter which endings are taken off."""


def tokens(text: str) -> list[str]:
    """Return the words of a text, in order, each as all its forms are counted; of unspaced scripts pairs of letters."""
    if text.isascii():
        runs = [run[:_LONGEST] for run in _ASCII_RUN.findall(text.lower())]
        return list(Stemmer.Stemmer("english", 0).stemWords(runs))
    found: list[str] = []
    stemmers: dict[str, Stemmer.Stemmer] = {}  # of this call: no two threads may use one
    for run in _RUN.findall(_folded(text)):
        if is_unspaced(run):
            found += [run[place : place + 2] for place in range(max(1, len(run) - 1))]
        elif algorithm := _algorithm(run):
            if algorithm not in stemmers:
                stemmers[algorithm] = Stemmer.Stemmer(algorithm, 0)
            found.append(stemmers[algorithm].stemWord(run[:_LONGEST]))
        else:
            found.append(run[:_LONGEST])
    return found


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the words of a text stand, characters `[start, end)`; of unspaced scripts each letter is one."""
    for run in _RUN.finditer(text):
        if is_unspaced(run.group()):
            yield from ((place, place + 1) for place in range(*run.span()))
        else:
            yield run.span()


def names(text: str) -> str:
    """Return a text without the words that are written small, where its script knows small letters.

    A few capital letters may be all that is left: a text with fewer than three words of another kind is whole.
    """
    small = [span for span in word_spans(text) if text[slice(*span)].islower()]
    ends = [0, *(end for _, end in small)]
    starts = [*(start for start, _ in small), len(text)]
    kept = "".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    return kept if len({*tokens(kept)}) >= _FEW_NAMES else text


def is_unspaced(run: str) -> bool:
    """Return whether a run of letters is of a script that puts no spaces between words."""
    return run[0] >= "\u0e00" and _RUN_UNSPACED.match(run) is not None


def stump(token: str) -> str:
    """Return what other forms of a token begin with, too: shorter words as they are, of longer ones the most part."""
    return token[0] if is_unspaced(token) else token[: max(4, len(token) - 3)]


_RUN_UNSPACED = re.compile(f"[{_UNSPACED}]")


def _folded(text: str) -> str:
    wide = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    return unicodedata.normalize("NFC", _SIGNS.sub("", wide))


def _algorithm(word: str) -> str:
    for end, algorithm in _ALGORITHMS:
        if word[0] < end:
            return algorithm
    return ""
