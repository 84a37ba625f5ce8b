"""Spans of the opened texts that may stand in the place of a reply: of the kind asked for, and near the question.

A small reader takes the wrong one of two dates. Where a sentence with a span of the kind shares much more with the
question than the sentence that the reply is from, the reader chooses again, among the spans of that sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memrecall_kv.recall import prompts
from memrecall_kv.recall.grounding import sentence_spans, stems
from memrecall_kv.recall.kind_asked import amounts, is_of_kind_asked, is_yes_or_no_asked, spans_of_kind_asked
from memrecall_kv.recall.wording import as_written

_NEARER = 1.5
"""How much more a sentence has to share with the question: a word that one sentence of four holds."""
_STEM = 5
"""Letters of a longer word that count: "repaired" and "repairs" are one."""


@dataclass(frozen=True)
class _Sentence:
    """A sentence in small letters, its spans of the kind asked for, and how much it shares with the question."""

    text: str
    spans: tuple[str, ...]
    shared: float


def settled(question: str, reply: str, texts: Sequence[str], choose: Callable[[Sequence[str]], str]) -> str:
    """Return a reply, or what stands in its place.

    Args:
        question: What was asked.
        reply: What was answered.
        texts: What was read for it.
        choose: Returns one of several spans.
    """
    reply = as_written(reply, texts)
    spans = spans_instead(question, reply, texts)
    if len(spans) > 1:
        return choose(spans)
    return spans[0] if spans else reply


def spans_instead(question: str, reply: str, texts: Sequence[str]) -> Sequence[str]:
    """Return what of some texts is to stand in the place of a reply, in their order, each once; nothing if it stands.

    Args:
        question: What was asked.
        reply: What was answered. One that says that there is no answer stands.
        texts: Where the spans are.
    """
    if prompts.is_nothing(reply):
        return ()
    reply = _plain(reply)
    is_of_kind = is_of_kind_asked(question, reply)
    if is_yes_or_no_asked(question):
        return () if is_of_kind else ("yes", "no")
    sentences = _sentences(question, texts)
    spans = _spans(sentences)
    if not is_of_kind or _has_another_unit(question, reply, texts, spans):
        sentences = sentences if any(each.spans for each in sentences) else _sentences(question, texts, loosely=True)
        best = _most_shared(sentences)
        return _spans(sentence for sentence in sentences if sentence.shared >= best - _NEARER)
    whole = tuple(span for span in spans if _plain(span).startswith(f"{reply} "))
    if whole and reply[-1].isdigit():
        return whole
    said = re.compile(rf"(?<!\w){re.escape(reply)}(?!\w)")
    own = [sentence.shared for sentence in sentences if said.search(sentence.text)]
    best = _most_shared(sentences)
    is_far = own and best > max(own) + _NEARER
    return _spans(sentence for sentence in sentences if sentence.shared == best) if is_far else ()


def _has_another_unit(question: str, reply: str, texts: Sequence[str], spans: Iterable[str]) -> bool:
    """Return whether a number stands in the texts only with a unit that neither question nor spans of the kind have."""
    said = re.compile(rf"(?<![\w.,]){re.escape(reply)}(?!\w|[.,]\d)")
    units = [
        amount.removeprefix(reply) for text in texts for amount in map(_plain, amounts(text)) if said.match(amount)
    ]
    stands = sum(len(said.findall(_plain(text))) for text in texts)
    is_asked = any(said.match(_plain(span)) for span in spans) or any(stems(unit) & stems(question) for unit in units)
    return reply[-1].isdigit() and 0 < len(units) == stands and not is_asked


def _most_shared(sentences: Iterable[_Sentence]) -> float:
    return max((sentence.shared for sentence in sentences if sentence.spans), default=0.0)


def _spans(sentences: Iterable[_Sentence]) -> Sequence[str]:
    return tuple(dict.fromkeys(span for sentence in sentences for span in sentence.spans))


def _sentences(question: str, texts: Sequence[str], *, loosely: bool = False) -> list[_Sentence]:
    """Return the sentences of some texts; a word that few of them hold counts for more."""
    parts = [(text, *span) for text in texts for span in sentence_spans(text)]
    held = [_stems(text[start:end]) for text, start, end in parts]
    counts = {word: sum(word in found for found in held) for word in _stems(question)}
    weights = {word: math.log(1 + len(parts) / count) for word, count in counts.items() if count}
    spans = {text: spans_of_kind_asked(question, text, loosely=loosely) for text in texts}
    found = []
    for (text, start, end), words in zip(parts, held, strict=True):
        own = tuple(text[first:last].strip() for first, last in spans[text] if start <= first < end)
        shared = sum(weight for word, weight in weights.items() if word in words)
        found.append(_Sentence(_plain(text[start:end]), own, shared))
    return found


def _stems(text: str) -> set[str]:
    return {re.sub("y$", "i", stem)[:_STEM] for stem in stems(text)}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
