"""What a training will take, before any weight is loaded.

Tokens are counted: the first steps are drawn as in training. Hours are tokens times the operations of one, over a rate:
two operations a weight and token forward, two more back, since the backbone is frozen. Attention, the output head,
the optimizer and validation are left out, so that hours are good to about a factor of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from memrecall_kv.backbone.outline import Outline
from memrecall_kv.recall import prompts
from memrecall_kv.train.data import Rows, load_rows
from memrecall_kv.train.judgements import GateSampler
from memrecall_kv.train.scoring import TextSampler, scorer_texts
from memrecall_kv.train.settings import (
    AdapterConfig,
    GateTraining,
    ReadingTraining,
    RlTraining,
    ScorerTraining,
    Settings,
)
from memrecall_kv.train.tasks import MAX_CHUNK, TaskSampler

_DRAWN = 16
"""Steps whose tokens are counted."""
_WEIGHT, _ADAM, _SHIPPED = 4, 8, 2
"""Bytes of a trained weight, of AdamW's two moments of it, and of it as it is shipped."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage takes.

    Attributes:
        name: Of the run.
        steps: Updates.
        read_tokens: Tokens read forward only, in all steps.
        trained_tokens: Tokens read forward and back.
        operations: Of the backbone's layers, in all steps.
        trained_weights: Numbers that are trained.
    """

    name: str
    steps: int
    read_tokens: int
    trained_tokens: int
    operations: float
    trained_weights: int

    @property
    def training_bytes(self) -> int:
        """Return bytes of trained weights, their gradients and the optimizer's moments."""
        return (2 * _WEIGHT + _ADAM) * self.trained_weights

    @property
    def checkpoint_bytes(self) -> int:
        """Return bytes of the checkpoint that a run goes on from."""
        return (_WEIGHT + _ADAM) * self.trained_weights

    @property
    def written_bytes(self) -> int:
        """Return bytes of what is written at the end."""
        return _SHIPPED * self.trained_weights


def plan_stage(outline: Outline, name: str, settings: Settings, root: Path) -> StagePlan:
    """Return what a stage takes.

    Args:
        outline: The backbone's.
        name: Of the run.
        settings: Of the stage.
        root: The data's directory.

    Raises:
        InputError: If a file cannot be read, or nothing is left to train on.
    """
    rows = load_rows(settings.data, root)
    read, trained = _of_a_step(outline, settings, rows)
    steps, draws = settings.loop.steps, settings.loop.steps * settings.loop.gradient_accumulation_steps
    operations = draws * outline.layer_parameters * (2 * read + 4 * trained)
    return StagePlan(
        name, steps, round(draws * read), round(draws * trained), operations, _trained_weights(outline, settings)
    )


def _of_a_step(outline: Outline, settings: Settings, rows: Rows) -> tuple[float, float]:
    """Return the mean tokens of a step that are read forward only, and that are read forward and back."""
    count: Callable[[int], tuple[float, float]]
    if isinstance(settings, ScorerTraining):
        count = _scoring(outline, settings, rows)
    elif isinstance(settings, ReadingTraining):
        count = _reading(outline, settings, rows)
    elif isinstance(settings, GateTraining):
        count = _judging(outline, settings, rows)
    else:
        count = _rollouts(outline, settings, rows)
    drawn = [count(step) for step in range(min(_DRAWN, settings.loop.steps))]
    return mean(read for read, _ in drawn), mean(trained for _, trained in drawn)


def _scoring(outline: Outline, settings: ScorerTraining, rows: Rows) -> Callable[[int], tuple[float, float]]:
    sampler = TextSampler(outline.encode, scorer_texts(rows), budget=settings.budget, seed=settings.loop.seed)
    # each chunk is read, and repeated after itself; what is trained sees keys and values, not the backbone
    return lambda step: (2 * sum(map(len, sampler.draw(step))), 0)


def _reading(outline: Outline, settings: ReadingTraining, rows: Rows) -> Callable[[int], tuple[float, float]]:
    texts, spans = (rows.texts, settings.spans) if settings.ratios else ([], 0)
    sampler = TaskSampler(outline, rows.train, texts, budget=settings.budget, spans=spans, seed=settings.loop.seed)

    def count(step: int) -> tuple[float, float]:
        task = sampler.draw(step)
        chunks = sum(map(len, task.chunks))
        asked = sum(len(q.prompt) + len(q.target) for q in task.queries if q.kind != "span")
        if not settings.ratios:
            return chunks, asked
        spans = sum(len(q.prompt) + len(q.target) for q in task.queries if q.kind == "span")
        memory = chunks * mean(1 / ratio for ratio in settings.ratios)
        text = step % settings.text_every == 0
        return chunks + (0 if text else asked), memory + asked + spans + (asked if text else 0)

    return count


def _judging(outline: Outline, settings: GateTraining, rows: Rows) -> Callable[[int], tuple[float, float]]:
    # without mining, which reads all texts: mined chunks are counted as long as the others
    sampler = GateSampler(outline.encode, rows.train, lists=settings.lists, seed=settings.loop.seed)
    first, last = settings.layers or (0, outline.layers)
    multi = {example.question for example in rows.train if len(example.paragraphs) > 1}

    def count(step: int) -> tuple[float, float]:
        task = sampler.draw(step)
        chains = [j for j in task.judgements if settings.mined and j.question in multi]
        mined = settings.mined * len(chains)
        chunks = sum(map(len, task.chunks)) * (1 + mined / len(task.chunks))
        asked = 0.0
        for judgement in task.judgements:
            prompt = len(outline.encode(prompts.gate_classify(judgement.question, judgement.memory)))
            judged = len(judgement.chunks) + (settings.mined if judgement in chains else 0)
            most = settings.noted_seeing_tokens if judgement.memory else settings.seeing_tokens
            seeing = min(prompt, most or prompt) if settings.layers else prompt
            once = prompt * last if settings.layers else 0
            asked += (once + judged * seeing * (last - first)) / outline.layers
        return chunks * last / outline.layers, asked

    return count


def _rollouts(outline: Outline, settings: RlTraining, rows: Rows) -> Callable[[int], tuple[float, float]]:
    def count(step: int) -> tuple[float, float]:
        examples = [rows.train[(step * settings.prompts + n) % len(rows.train)] for n in range(settings.prompts)]
        read = trained = 0
        for example in examples:
            gold = [p.text for p in example.paragraphs if p.supporting]
            rest = [p.text for p in example.paragraphs if not p.supporting][:2]
            chunks = [len(outline.encode(text)[:MAX_CHUNK]) for text in gold + rest]
            prompt = len(outline.encode(prompts.trained_answer(example.question)))
            notes = len(chunks) * (prompt + settings.note_tokens) if settings.note_tokens else 0
            turns = settings.group_size * (prompt + settings.answer_tokens + notes)
            memory = sum(chunks) // settings.ratio if settings.ratio else 0
            # rollouts and the reference forward; the policy's own log-probabilities back as well
            read += (3 if settings.ratio else 1) * sum(chunks) + 2 * turns
            trained += turns + memory
        return read, trained

    return count


def _trained_weights(outline: Outline, settings: Settings) -> int:
    if isinstance(settings, ScorerTraining):
        features, heads = outline.block_numbers // outline.layers, int(outline.config.num_key_value_heads)
        return outline.layers * (features * settings.width + settings.width + settings.width * heads + heads)
    if isinstance(settings, GateTraining):
        below = settings.layers[1] if settings.layers else None
        deltas = outline.adapter_parameters(settings.adapter.targets, settings.adapter.rank, below=below)
        return deltas + int(outline.config.hidden_size) + 1
    if isinstance(settings, ReadingTraining):
        parts = [settings.reader, *([settings.compressor] if settings.ratios else [])]
    else:
        # the run it starts from may not be there yet: taken to have the presets' ranks
        parts = [AdapterConfig(), *([AdapterConfig()] if settings.ratio else [])]
    deltas = sum(outline.adapter_parameters(part.targets, part.rank) for part in parts)
    return deltas + (int(outline.config.hidden_size) if len(parts) > 1 else 0)
