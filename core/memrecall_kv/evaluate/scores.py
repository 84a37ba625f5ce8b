"""One answer's scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from memrecall_kv.evaluate.measures.metrics import (
    exact_match,
    f1_score,
    hop_order,
    loose_sub_em,
    precision,
    recall_at_k,
    sub_em,
)
from memrecall_kv.evaluate.question import Question
from memrecall_kv.evaluate.systems.system import Reply

KS = (1, 2, 5, 10, 20)
"""Where evidence recall is told."""

_ANSWERS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "em": exact_match,
    "f1": f1_score,
    "sub_em": sub_em,
    "loose_sub_em": loose_sub_em,
}


def answer_scores(question: Question, reply: Reply) -> dict[str, float]:
    """Return exact match, F1, sub-EM and the published loose sub-EM, each in [0, 1].

    A question that the documents do not answer is right if the system says so. Where all answers are wanted, the
    score is the share of them that the reply holds, and F1 counts words against all of them together.
    """
    if not question.answers:
        return dict.fromkeys(_ANSWERS, float(not reply.found))
    said = reply.text if reply.found else ""
    if question.wanted == "any" or len(question.answers) == 1:
        return {name: measure(said, question.answers) for name, measure in _ANSWERS.items()}
    share = sum(sub_em(said, [answer]) for answer in question.answers) / len(question.answers)
    loose = sum(loose_sub_em(said, [answer]) for answer in question.answers) / len(question.answers)
    f1 = f1_score(said, [" ".join(question.answers)])
    return {"em": float(share == 1.0), "f1": f1, "sub_em": share, "loose_sub_em": loose}


def evidence_scores(question: Question, reply: Reply) -> dict[str, float | None]:
    """Return recall@k of what was ranked, precision and hop order of what was read, and whether the span was cited.

    Nothing if nobody knows the evidence, or the system names none. A passage that is cited holds the answer's span, or
    the span holds the passage; a refusal cites nothing and does not count.
    """
    if not question.gold or reply.evidence is None:
        return {}
    found: dict[str, Any] = {f"recall@{k}": recall_at_k(reply.ranked, question.gold, k) for k in KS}
    found["recall"] = recall_at_k(reply.evidence, question.gold, len(reply.evidence))
    found["precision"] = precision(reply.evidence, question.gold)
    found["hop_order"] = hop_order(reply.evidence, question.gold)
    if question.span and reply.found and reply.cited is not None:
        pairs = ((passage, question.span) for passage in reply.cited)
        found["cited"] = max((max(sub_em(one, [other]), sub_em(other, [one])) for one, other in pairs), default=0.0)
    return found
