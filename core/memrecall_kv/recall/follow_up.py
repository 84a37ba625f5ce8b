"""A follow-up question, rewritten so that it stands alone.

A small model that writes freely invents: the default backbone wrote four of ten follow-up questions as they were meant
(docs/log.md). So it only chooses: `references.py` lists what the question could mean, in words of the turns before, and
the likeliest of these is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.recall import prompts
from memrecall_kv.recall.references import rewrites

_TURNS = 3
"""Turns that a follow-up question may refer to."""
_WORDS = 48
"""Words of a question or an answer that are looked at."""
_CHOICES = 48
_BATCH = 16
_REFERENCES = 2
"""References that are replaced in one question, one after the other."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that stood alone, and its answer; an empty one if there was none."""

    question: str
    answer: str = ""


def stand_alone(backbone: Backbone, question: str, turns: Sequence[Turn]) -> str:
    """Return a question in words that need no turn before it; one that stands alone is returned as it is.

    Args:
        backbone: Chooses; nobody is asked if there is nothing to choose.
        question: What is asked.
        turns: What was asked and answered before, the latest last.

    Raises:
        ContextOverflowError: If turns and question do not fit the backbone's window.
    """
    recent = [Turn(_cut(turn.question), _cut(turn.answer)) for turn in turns[-_TURNS:]]
    said = [text for turn in recent for text in (turn.question, turn.answer) if text]
    if not recent or len(question.split()) > _WORDS:
        return question
    for _ in range(_REFERENCES):
        choices = rewrites(question, said, recent[-1].question)[:_CHOICES]
        if not choices:
            break
        question = choices[_likeliest(backbone, question, recent, choices)]
    return question


def _likeliest(backbone: Backbone, question: str, turns: Sequence[Turn], choices: Sequence[str]) -> int:
    """Return the place of the rewritten question that the backbone is likeliest to write."""
    if len(choices) == 1:
        return 0
    *read, last = backbone.encode(prompts.follow_up([(turn.question, turn.answer) for turn in turns], question))
    rows = [[last, *backbone.encode(f" {choice}\n")] for choice in choices]

    def likelihoods() -> list[float]:
        with torch.inference_mode():
            (block,) = whole_blocks(backbone.kv.prefill([read]), [read])
            found: list[float] = []
            for start in range(0, len(rows), _BATCH):
                ids, lengths = backbone.kv.pad(rows[start : start + _BATCH])  # [B, Q], [B]
                state = backbone.kv.place([[block]] * len(ids))
                hidden = backbone.kv.forward(state, ids=ids, lengths=lengths)
                logs = backbone.kv.logits(hidden[:, :-1]).log_softmax(dim=-1)  # [B, Q-1, V]
                chosen = logs.gather(-1, ids[:, 1:, None])[..., 0]  # [B, Q-1]
                real = torch.arange(chosen.shape[1], device=ids.device) < (lengths - 1)[:, None]
                found += (chosen * real).sum(dim=1).tolist()
        return found

    found = backbone.scheduler.call(likelihoods)
    return max(range(len(found)), key=found.__getitem__)


def _cut(text: str) -> str:
    words = text.split()
    return " ".join(words) if len(words) <= _WORDS else " ".join([*words[:_WORDS], "..."])
