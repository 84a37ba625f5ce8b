"""Stage `scorer`: texts to read, the loss of predicted importance, and its training.

Source: KVzip, arXiv:2505.23416, as the teacher.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import Prefill
from memrecall_kv.compress.importance import reconstruction
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.train.data import Rows, load_rows
from memrecall_kv.train.loop import Report, means, train_to_end
from memrecall_kv.train.settings import ScorerTraining
from memrecall_kv.train.tasks import MAX_CHUNK

_LENGTHS = (64, 320)
"""Tokens of a chunk: the shortest and the longest that is drawn."""


class TextSampler:
    """Draws pieces of texts of about a budget of tokens in all; a pure function of seed and step.

    Args:
        encode: Text to token ids.
        texts: What is drawn from.
        budget: Tokens per draw.
        seed: Of everything that is drawn.
    """

    def __init__(self, encode: Callable[[str], list[int]], texts: Sequence[str], *, budget: int, seed: int) -> None:
        self._encode = encode
        self._texts = texts
        self._budget = budget
        self._seed = seed

    def draw(self, step: int) -> list[list[int]]:
        """Return token ids of chunks."""
        draw = random.Random(f"{self._seed}:{step}")  # noqa: S311  # sampling, not secrecy
        rows: list[list[int]] = []
        while sum(map(len, rows)) < self._budget:
            text = draw.choice(self._texts)
            size = draw.randint(*_LENGTHS)
            # about four characters are a token
            start = draw.randrange(max(1, len(text) - 4 * size))
            row = self._encode(text[start : start + 5 * size])[:size]
            if len(row) > 1:
                rows.append(row)
        return rows


def scorer_texts(rows: Rows) -> list[str]:
    """Return what a scorer reads: the plain texts, and the paragraphs of the questions."""
    return [*rows.texts, *sorted({p.text for example in rows.train for p in example.paragraphs})]


def scoring_loss(
    backbone: Backbone, scorer: ImportanceScorer, rows: Sequence[Sequence[int]], *, floor: float
) -> tuple[Tensor, dict[str, float]]:
    """Return how far predictions are from what reconstruction says, and what would be kept alike.

    Args:
        backbone: The model, frozen.
        scorer: With gradient.
        rows: Token ids of chunks.
        floor: Log attention below which nothing is told apart.
    """
    with torch.no_grad():
        prefill: Prefill = backbone.kv.prefill(rows)
        wanted = reconstruction(backbone, prefill, rows).clamp_min(floor)  # [L, B, K, T]
    lengths = torch.tensor([len(row) for row in rows], device=wanted.device)
    real = (torch.arange(wanted.shape[3], device=wanted.device) < lengths[:, None])[None, :, None].expand_as(wanted)
    found = scorer.predict(prefill)
    loss = smooth_l1_loss(found[real], wanted[real])
    agreed = {f"kept_alike_x{ratio}": agreement(found.detach()[real], wanted[real], ratio) for ratio in (2, 4, 8)}
    return loss, agreed


def agreement(found: Tensor, wanted: Tensor, ratio: int) -> float:
    """Return which share of the best 1/ratio of `wanted` is also among the best of `found`, in [0, 1]."""
    count = max(1, len(wanted) // ratio)
    chosen = torch.zeros(len(wanted), dtype=torch.bool, device=wanted.device)
    chosen[found.topk(count).indices] = True
    return float(chosen[wanted.topk(count).indices].float().mean())


def train_scorer(
    backbone: Backbone,
    settings: ScorerTraining,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> None:
    """Train an importance scorer and write `compressor/`; arguments as in `reading.train_reading`."""
    rows = load_rows(settings.data, root)
    loop_config = settings.loop
    sampler = TextSampler(backbone.encode, scorer_texts(rows), budget=settings.budget, seed=loop_config.seed)
    held_out = [backbone.encode(example.paragraphs[0].text)[:MAX_CHUNK] for example in rows.held_out]
    with torch.no_grad():
        scorer = ImportanceScorer.create(
            backbone.kv.prefill(sampler.draw(-1)), width=settings.width, seed=loop_config.seed
        )

    def step(number: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        yield scoring_loss(backbone, scorer, sampler.draw(number), floor=settings.floor)

    def validate(_: int) -> dict[str, float]:
        parts = []
        for start in range(0, len(held_out), 8):
            with torch.no_grad():
                loss, alike = scoring_loss(backbone, scorer, held_out[start : start + 8], floor=settings.floor)
            parts.append({"loss": float(loss), **alike})
        return means(parts)

    scale = scorer.tensors["scale"]
    parameters = {name: tensor for name, tensor in scorer.tensors.items() if tensor is not scale}
    if train_to_end(parameters, loop_config, out, step, validate, resume=resume, report=report):
        scorer.save(out / "compressor")
