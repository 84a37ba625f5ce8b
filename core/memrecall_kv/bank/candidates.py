"""Which chunks a question may need: of one bank, or of several as if they were one.

Scores add up over words, and a word's weight needs no more of a bank than three sums: its chunks, their tokens, and how
many of them hold the word. With the sums of all banks each ranks its own chunks as one bank of all documents would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

import numpy as np

from memrecall_kv.bank import index
from memrecall_kv.bank.finder import Finder, Scope
from memrecall_kv.bank.tokens import stump, tokens
from memrecall_kv.types import Chunk

_Found = tuple[int, int]
"""A chunk: the number of its bank, and its key there."""


@dataclass(frozen=True, slots=True)
class Part:
    """A bank that is asked, and what of it may be recalled."""

    finder: Finder
    scope: Scope


def candidates(parts: Sequence[Part], text: str, limit: int | None) -> list[tuple[Chunk, float]]:
    """Return the chunks that a question may need, bank after bank in its order, each with its share of words.

    Args:
        parts: The banks; of equals the first ones are taken.
        text: What is asked.
        limit: Most chunks; `None` for all in the scopes.

    Raises:
        BankFormatError: If an index, or a document that it leads to, is not as it was stored.
    """
    found: list[tuple[Chunk, float]] = []
    with ExitStack() as reading:
        for part in parts:
            reading.enter_context(part.finder.reading())
        shares = _shares(parts, text, limit)
        for number, (finder, scope) in enumerate((part.finder, part.scope) for part in parts):
            places = scope.places
            if limit is not None:
                places = np.unique(np.array([key for bank, key in shares if bank == number], np.int64) // index.CHUNKS)
            for entry in finder.entries_in(scope, places):
                for chunk in entry.chunks:
                    share = shares.pop((number, entry.place * index.CHUNKS + chunk.index), None)
                    if share is not None or limit is None:
                        found.append((chunk, share or 0.0))
    return found


def _shares(parts: Sequence[Part], text: str, limit: int | None) -> dict[_Found, float]:
    """Return the share of words of what the indexes propose."""
    corpus = _corpus(parts, text)
    ranked = _merged(_ranked(parts, text, corpus), limit)
    best = next((score for _, score in ranked), 0.0) or 1.0  # no score at all is that of a made up index
    shares = {found: score / best for found, score in ranked}
    if limit is not None and len(shares) < min(limit, sum(part.scope.chunks for part in parts)):
        # as many again, since those that have a share may be among them
        others = (found for found, _ in _merged(_other_forms(parts, text, corpus), 2 * limit))
        for found in chain(others, _ends(parts, limit)):
            if len(shares) < limit:
                shares.setdefault(found, 0.0)
    return shares


def _corpus(parts: Sequence[Part], text: str) -> index.Corpus:
    """Return what a text is asked of: all banks, whatever may be recalled of them."""
    chunks, size, holding = 0, 0, Counter[str]()
    for part in parts:
        with part.finder.postings(part.scope) as postings:
            holding.update(postings.holding(text))
        more, its_size = part.finder.size()
        chunks, size = chunks + more, size + its_size
    return index.Corpus(chunks, size, holding)


def _ranked(parts: Sequence[Part], text: str, corpus: index.Corpus) -> Iterator[index.Ranked]:
    """Yield the chunks of each bank that share a word with a text."""
    for part in parts:
        with part.finder.postings(part.scope) as postings:
            yield postings.ranked(text, corpus)


def _other_forms(parts: Sequence[Part], text: str, corpus: index.Corpus) -> Iterator[index.Ranked]:
    """Yield the chunks of each bank that hold other forms of a text's words."""
    starts = sorted({stump(word) for word in tokens(text)})
    left = dict.fromkeys(starts, index.MOST_FORMS)
    found: list[list[index.Keys]] = []
    for part in parts:
        found.append([])
        with part.finder.postings(part.scope) as postings:
            for start in starts:
                keys, rows = postings.other_forms(start, left[start])
                left[start] -= rows
                found[-1].append(keys)
    rarities = [index.rarity(sum(map(len, of_one)), corpus.chunks) for of_one in zip(*found, strict=True)]
    for its in found:
        yield index.best(its, [np.full(len(keys), rarity) for keys, rarity in zip(its, rarities, strict=True)])


def _merged(ranked: Iterable[index.Ranked], limit: int | None) -> list[tuple[_Found, float]]:
    """Return the best of what was found in the banks, of equals the first ones of the first bank."""
    keys, scores = zip(*((keys[:limit], scores[:limit]) for keys, scores in ranked), strict=True)
    banks = np.repeat(np.arange(len(keys)), [len(its) for its in keys])
    all_keys, all_scores = np.concatenate(keys), np.concatenate(scores)
    order = np.lexsort((all_keys, banks, -all_scores))[:limit]
    found = zip(banks[order].tolist(), all_keys[order].tolist(), strict=True)
    return list(zip(found, all_scores[order].tolist(), strict=True))


def _ends(parts: Sequence[Part], count: int) -> Iterator[_Found]:
    """Yield the first and the latest chunks of all banks, in turn."""
    first, last = (islice(_end(parts, count, last=last), count) for last in (False, True))
    return (found for pair in zip_longest(first, last) for found in pair if found is not None)


def _end(parts: Sequence[Part], count: int, *, last: bool) -> Iterator[_Found]:
    numbered = list(enumerate(parts))
    for number, part in reversed(numbered) if last else numbered:
        yield from ((number, key) for key in part.finder.end(count, part.scope, last=last))
