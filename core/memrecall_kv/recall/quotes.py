"""Which spans of the opened texts the claims of an answer rest on.

A claim is a sentence of the answer, or an item of a list where no sentence holds the whole of it. It rests on the
sentence that holds most of what it says beyond the question, or on two that follow each other where one does not do.
Words count as the candidate index counts them, and a number is one word however its digits are grouped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, pairwise

from memrecall_kv.bank.tokens import tokens
from memrecall_kv.recall import prompts
from memrecall_kv.recall.grounding import PERCENT, STOPWORDS, sentence_spans
from memrecall_kv.types import Quote, Recall, Verdict

_NUMBER = re.compile(
    r"(?<![\w.,])\d{1,3}(?:[ \u00a0\u202f'\u2019]\d{3})+(?:[.,]\d+)?(?!\w)|(?<!\w)\d+(?:[.,]\d+)*(?!\w)"
)
_PERCENT = re.compile(PERCENT, re.IGNORECASE)
_CURRENCY = re.compile(r"[$\u00a3\u00a5\u20a0-\u20bf]")
_ITEM_END = re.compile(r"\s*[,;\n\u3001\uff0c]\s*(?:and\s+|or\s+)?|\s+(?:and|or|und|oder|y|et|e|ou)\s+")
_CLAIMS = 500
"""Sentences of an answer; of more the first are quoted."""
_ITEM_WORDS = 6
"""Words of an item; what has more is no list."""
_SAYS_LITTLE = frozenset(tokens(" ".join(STOPWORDS - {"not"}))) | frozenset(
    tokens("yes no ja nein oui non si sim não да нет sí")
)
"""What a claim need not find in a text."""


@dataclass(frozen=True, slots=True)
class _Passage:
    """A sentence of an opened text, or two in a row; `order` grows from the most probable chunk's first on."""

    recall: Recall
    start: int
    end: int
    words: frozenset[str]
    order: int


def quotes_of(answer: str, question: str, recalls: Sequence[Recall]) -> tuple[Quote, ...]:
    """Return the claims of an answer in order, each with the span it rests on.

    A sentence that says that there is no answer claims nothing. What is quoted for one does not depend on those after.

    Args:
        answer: Its text.
        question: What a claim repeats of it needs no proof.
        recalls: The opened chunks.
    """
    asked, single = words_of(question), list(_passages(recalls))
    double = [_joined(*pair) for pair in pairwise(single) if pair[0].recall is pair[1].recall]

    def rest(start: int, end: int) -> Quote:
        claim = answer[start:end]
        said = words_of(claim) - _SAYS_LITTLE
        return _quoted(claim, start, said - asked or said, asked, single, double)

    found: list[Quote] = []
    for start, end in islice(sentence_spans(answer), _CLAIMS):
        if prompts.is_nothing(answer[start:end]):
            continue
        whole = rest(start, end)
        items = _items(answer, start, end) if whole.verdict != "found" else []
        found += [rest(*item) for item in items] or [whole]
    return tuple(found)


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text, numbers whole, percent signs and currencies among them."""
    plain = unicodedata.normalize("NFKC", text)
    numbers = {_number(match[0]) for match in _NUMBER.finditer(plain)}
    signs = {match[0] for match in _CURRENCY.finditer(plain)} | ({"%"} if _PERCENT.search(plain) else set())
    return frozenset({*tokens(_NUMBER.sub(" ", _PERCENT.sub(" ", plain))), *numbers, *signs})


def _number(text: str) -> str:
    """Return a number's digits, without what groups them, and a point before its decimals.

    What three digits follow groups, unless another sign has grouped before it.
    """
    digits = "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)
    whole, _, last = re.sub(r"[\s'\u2019]", "", digits).replace(",", ".").rpartition(".")
    signs = {sign for sign in digits if sign in ".,"}
    grouped = len(last) == 3 and len(signs) == 1 and not re.search(r"[\s'\u2019]", digits)
    if not whole or grouped:
        return (whole + last).replace(".", "")
    return f"{whole.replace('.', '')}.{last}".rstrip("0").rstrip(".")


def _items(answer: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return where the items of a list stand; nothing if a sentence is no list."""
    cuts = [(start, start), *(match.span() for match in _ITEM_END.finditer(answer, start, end)), (end, end)]
    parts = [(left[1], len(answer[: right[0]].rstrip(".!?\u3002"))) for left, right in pairwise(cuts)]
    items = [(begin, stop) for begin, stop in parts if re.search(r"\w", answer[begin:stop])]
    texts = [answer[begin:stop] for begin, stop in items]
    is_list = len(items) > 1 and all(
        len(each.split()) <= _ITEM_WORDS and words_of(each) - _SAYS_LITTLE for each in texts
    )
    return items if is_list else []


def _passages(recalls: Sequence[Recall]) -> Iterator[_Passage]:
    """Yield every sentence, and the words of its heading with each."""
    order = count()
    for recall in sorted(recalls, key=lambda recall: (-recall.gate_probability, recall.step)):
        text, heading = recall.chunk.text, words_of(recall.chunk.heading.read)
        for start, end in sentence_spans(text):
            yield _Passage(recall, start, end, words_of(text[start:end]) | heading, next(order))


def _joined(first: _Passage, second: _Passage) -> _Passage:
    return replace(first, end=second.end, words=first.words | second.words)


def _quoted(
    claim: str, start: int, said: frozenset[str], asked: frozenset[str], single: list[_Passage], double: list[_Passage]
) -> Quote:
    """Return what a claim rests on."""
    missing = Quote(claim, start, "not found")
    best = _best(single, said, asked)
    if best is None:
        return missing
    if not said:  # a bare yes or no: what is near to the question may be its reason
        return _of(best, claim, start, "partly") if asked & best.words - _SAYS_LITTLE else missing
    if said <= best.words:
        return _of(best, claim, start, "found")
    pair = _best(double, said, asked)
    if pair is not None and said <= pair.words:
        return _of(pair, claim, start, "found")
    return _of(best, claim, start, "partly") if 2 * len(said & best.words) >= len(said) else missing


def _best(passages: list[_Passage], said: frozenset[str], asked: frozenset[str]) -> _Passage | None:
    return max(passages, key=lambda each: (len(said & each.words), len(asked & each.words), -each.order), default=None)


def _of(passage: _Passage, claim: str, start: int, verdict: Verdict) -> Quote:
    chunk = passage.recall.chunk
    begin, end = chunk.start + passage.start, chunk.start + passage.end
    return Quote(claim, start, verdict, chunk.id, chunk.doc_id, begin, end, chunk.text[passage.start : passage.end])
