"""Paragraphs that fill a context up, and the order they stand in.

Two rules keep a haystack honest: no paragraph shares a run of 13 words with one of the question's own, and none
holds one of its answers. A longer haystack holds the shorter one of the same key, so that lengths can be paired.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.rows import read_rows, titled
from memrecall_kv.evaluate.settings import Order
from memrecall_kv.evaluate.shelf import Shelf

POOL = "text/wikipedia_pool.jsonl.gz"
RUN = 13
"""Words in a row that two different texts do not share by chance."""


class Haystack:
    """Distinct paragraphs to pick from.

    Args:
        texts: Paragraphs; equal ones count once.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._shelf = Shelf(_distinct(texts))

    @classmethod
    def from_folder(cls, folder: Path | None) -> Haystack:
        """Return the haystack of a data folder.

        Raises:
            InputError: If it cannot be read.
        """
        return cls(titled(row.get("title", ""), row["text"]) for row in read_rows(folder, POOL))

    def __getitem__(self, number: int) -> str:
        return self._shelf[number]

    def pick(self, count: int, *, beside: Sequence[str], without: Sequence[str], key: str) -> list[int]:
        """Return the numbers of paragraphs that may stand beside a question's own.

        Args:
            count: How many.
            beside: The question's own paragraphs.
            without: Its answers; yes and no stand everywhere and are no reason to leave a paragraph out.
            key: Decides which ones are picked.

        Raises:
            InputError: If there are not enough.
        """
        runs = {run for text in beside for run in word_runs(text)}
        holds = answer_finder(without)
        order = list(range(len(self._shelf)))
        random.Random(key).shuffle(order)  # noqa: S311  # a sample, not a secret
        picked: list[int] = []
        for number in order:
            if len(picked) == count:
                break
            text = self._shelf[number]
            if not holds(text) and runs.isdisjoint(word_runs(text)):
                picked.append(number)
        if len(picked) < count:
            raise InputError(
                f"Expected {count} paragraphs for a haystack, got only {len(picked)} that are allowed.",
                "Ask for fewer documents.",
            )
        return picked


def arrange(total: int, gold: Sequence[int], order: Order, generator: random.Random) -> list[int]:
    """Return a permutation of `range(total)` in which the gold items, given in hop order, stand as asked."""
    shuffled = list(range(total))
    generator.shuffle(shuffled)
    if order != "random":
        places = sorted(shuffled.index(item) for item in gold)
        for place, item in zip(places, gold if order == "forward" else reversed(gold), strict=True):
            shuffled[place] = item
    return shuffled


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"\w+", text.lower())


def word_runs(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the runs of words of a text that tell a copy of it; one that is shorter is a run itself."""
    split = words(text)
    for start in range(max(1, len(split) - RUN + 1)):
        yield tuple(split[start : start + RUN])


def answer_finder(answers: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a text holds one of the answers as whole words; yes and no do not count."""
    wanted = sorted({answer.lower().strip() for answer in answers} - {"", "yes", "no"})
    # a pattern that matches nothing, where there is nothing to find
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(answer)}(?!\w)" for answer in wanted) or r"(?!)")
    return lambda text: pattern.search(text.lower()) is not None


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    seen: set[int] = set()
    for text in texts:
        key = hash(text)
        if key not in seen:
            seen.add(key)
            yield text
