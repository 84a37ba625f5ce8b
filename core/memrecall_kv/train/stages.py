"""The stages: what each trains, from its settings and rows, and the folder it writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.frozen_raw import FrozenRawLayout
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.errors import InputError
from memrecall_kv.recall import prompts
from memrecall_kv.recall.gate import HEAD_FILE
from memrecall_kv.train.data import Example, load_rows
from memrecall_kv.train.gating import GateLoss, GateSampler, Judgement
from memrecall_kv.train.loop import StepLoss, TrainingLoop
from memrecall_kv.train.reading import ReadingLoss
from memrecall_kv.train.rollouts import Rollouts
from memrecall_kv.train.scoring import TextSampler, scoring_loss
from memrecall_kv.train.settings import (
    AdapterConfig,
    GateTraining,
    LoopConfig,
    ReadingTraining,
    RlTraining,
    ScorerTraining,
)
from memrecall_kv.train.tasks import MAX_CHUNK, TaskSampler, validation_task
from memrecall_kv.types import MemoryBlock

Report = Callable[[dict[str, Any]], None]


def train_scorer(
    backbone: Backbone,
    settings: ScorerTraining,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> None:
    """Train an importance scorer and write `compressor/`; arguments as in `train_reading`."""
    rows = load_rows(settings.data, root)
    loop_config = settings.loop
    paragraphs = sorted({p.text for example in rows.train for p in example.paragraphs})
    sampler = TextSampler(backbone.encode, [*rows.texts, *paragraphs], budget=settings.budget, seed=loop_config.seed)
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
        return _means(parts)

    scale = scorer.tensors["scale"]
    parameters = {name: tensor for name, tensor in scorer.tensors.items() if tensor is not scale}
    if _train(parameters, loop_config, out, step, validate, resume=resume, report=report):
        scorer.save(out / "compressor")


def train_reading(
    backbone: Backbone,
    settings: ReadingTraining,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> None:
    """Train memory tokens and reader, or the reader alone if no ratio is set; write `compressor/` and `reasoner/`.

    Args:
        backbone: Frozen here.
        settings: Of stage `compressor` or `reasoner`.
        root: The data's directory.
        out: Folder of the run: metrics, checkpoint, adapters.
        resume: Go on from the folder's checkpoint.
        report: Called with each step's record.
    """
    rows = load_rows(settings.data, root)
    loop_config = settings.loop
    reader = _adapter(backbone, settings.reader, loop_config.seed)
    if settings.start_from:
        reader = LoraAdapter.from_directory(Path(settings.start_from)).single()
    compressor = _adapter(backbone, settings.compressor, loop_config.seed + 1) if settings.ratios else None
    embedding = torch.zeros(backbone.model.config.hidden_size)
    loss = ReadingLoss(backbone, kl_weight=settings.kl_weight, span_weight=settings.span_weight)
    # without blocks there is nothing to reconstruct from
    texts, spans = (rows.texts, settings.spans) if settings.ratios else ([], 0)
    sampler = TaskSampler(backbone, rows.train, texts, budget=settings.budget, spans=spans, seed=loop_config.seed)
    checks = [validation_task(backbone, rows.held_out[start : start + 8]) for start in range(0, len(rows.held_out), 8)]

    def layout() -> FrozenRawLayout:
        return FrozenRawLayout(backbone, compressor or LoraAdapter({}, alpha=1.0), embedding)

    def live() -> LoraAdapter:
        return reader.to(backbone.device, backbone.dtype)

    def step(number: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        ratio = random.Random(f"{loop_config.seed}:ratio:{number}").choice(settings.ratios or (0,))  # noqa: S311
        train_text = number % settings.text_every == 0
        yield loss(layout(), live(), sampler.draw(number), ratio, train_text=train_text)

    def validate(_: int) -> dict[str, float]:
        with torch.no_grad():
            parts = [loss.exact(layout(), live(), task, ratio) for ratio in (0, *settings.ratios) for task in checks]
        return _means(parts)

    parameters = _parameters({"reader": reader, "compressor": compressor})
    if compressor:
        parameters["embedding"] = embedding
    if _train(parameters, loop_config, out, step, validate, resume=resume, report=report):
        reader.half().save(out / "reasoner", base_model=backbone.name)
        if compressor:
            FrozenRawLayout(backbone, compressor, embedding).save(out / "compressor")


def train_gate(
    backbone: Backbone,
    settings: GateTraining,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> None:
    """Train a gate on uncompressed chunks and write `gate/`; arguments as in `train_reading`."""
    rows = load_rows(settings.data, root)
    loop_config = settings.loop
    adapter = _adapter(backbone, settings.adapter, loop_config.seed)
    weight, bias = torch.zeros(backbone.model.config.hidden_size), torch.tensor(-1.0)
    if settings.start_from:
        adapter, weight, bias = _gate_start(Path(settings.start_from), settings.adapter.rank, weight, bias)
    blocks = _Whole(backbone)
    loss = GateLoss(backbone, blocks, positive_weight=settings.positive_weight, list_weight=settings.list_weight)
    sampler = GateSampler(
        backbone.encode,
        rows.train,
        lists=settings.lists,
        seed=loop_config.seed,
        mined=settings.mined,
        texts=rows.texts,
    )
    held_out = [example for example in rows.held_out if len(example.paragraphs) > 1]

    def live() -> LoraAdapter:
        return adapter.to(backbone.device, backbone.dtype)

    def step(number: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        return loss(live(), weight, bias, sampler.draw(number))

    def validate(_: int) -> dict[str, float]:
        with torch.inference_mode():
            return _means([_recall(backbone, loss, blocks, (live(), weight, bias), row) for row in held_out])

    parameters = _parameters({"gate": adapter}) | {"head.weight": weight, "head.bias": bias}
    if _train(parameters, loop_config, out, step, validate, resume=resume, report=report):
        adapter.half().save(out / "gate", base_model=backbone.name)
        save_file({"weight": weight.detach().clone(), "bias": bias.detach().clone()}, out / "gate" / HEAD_FILE)


def train_rl(
    backbone: Backbone,
    settings: RlTraining,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> None:
    """Train reader, and compressor where there is a ratio, from rewards; arguments as in `train_reading`."""
    rows = load_rows(settings.data, root)
    loop_config, start = settings.loop, Path(settings.start_from)
    reader, reference = (_LearnedReading.load(backbone, start, ratio=settings.ratio) for _ in range(2))
    rollouts = Rollouts(backbone, settings)

    def group(number: int, examples: Sequence[Example]) -> Iterator[tuple[Tensor, dict[str, float]]]:
        for place, example in enumerate(examples):
            draw = random.Random(f"{loop_config.seed}:{number}:{place}")  # noqa: S311  # sampling, not secrecy
            texts = _shuffled(example, draw)
            generator = torch.Generator().manual_seed(draw.randrange(2**31))
            with torch.no_grad():
                fixed = reader.blocks(texts)
            drawn = rollouts.draw(reader.live(), fixed, example.question, generator)
            rewards = [rollouts.reward(trajectory, example, texts) for trajectory in drawn]
            blocks = reader.blocks(texts) if settings.ratio else fixed
            anchor = reference.blocks(texts) if settings.ratio else fixed
            loss, metrics = rollouts.loss(reader.live(), reference.live(), blocks, anchor, drawn, rewards)
            yield loss / len(examples), {name: value / len(examples) for name, value in metrics.items()}

    def step(number: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        draw = random.Random(f"{loop_config.seed}:prompts:{number}")  # noqa: S311  # sampling, not secrecy
        return group(number, draw.sample(rows.train, min(settings.prompts, len(rows.train))))

    def validate(_: int) -> dict[str, float]:
        """Measure the reward of greedy-like rollouts: the same draws every time, so that curves compare."""
        earned = []
        with torch.no_grad():
            for number, example in enumerate(rows.held_out):
                texts = _shuffled(example, random.Random(number))  # noqa: S311  # sampling, not secrecy
                generator = torch.Generator().manual_seed(number)
                drawn = rollouts.draw(reader.live(), reader.blocks(texts), example.question, generator)
                earned += [rollouts.reward(trajectory, example, texts) for trajectory in drawn]
        return {"held_out_reward": sum(earned) / len(earned)}

    if _train(reader.parameters(), loop_config, out, step, validate, resume=resume, report=report):
        reader.save(out)


@dataclass(frozen=True)
class _LearnedReading:
    """A reader and, with a ratio, the memory tokens it reads, as leaves that can be trained."""

    backbone: Backbone
    ratio: int
    reader: LoraAdapter
    compressor: LoraAdapter
    embedding: Tensor

    @classmethod
    def load(cls, backbone: Backbone, folder: Path, *, ratio: int) -> _LearnedReading:
        reader = LoraAdapter.from_directory(folder / "reasoner").single()
        if not ratio:
            return cls(backbone, 0, reader, LoraAdapter({}, alpha=1.0), torch.zeros(backbone.model.config.hidden_size))
        layout = FrozenRawLayout.from_directory(backbone, folder / "compressor")
        return cls(backbone, ratio, reader, layout.adapter.single(), layout.embedding.float().clone())

    def parameters(self) -> dict[str, Tensor]:
        found = _parameters({"reader": self.reader, "compressor": self.compressor})
        return found | {"embedding": self.embedding} if self.ratio else found

    def live(self) -> LoraAdapter:
        return self.reader.to(self.backbone.device, self.backbone.dtype)

    def blocks(self, texts: Sequence[str]) -> list[MemoryBlock]:
        layout = FrozenRawLayout(self.backbone, self.compressor, self.embedding)
        reading = layout.read([self.backbone.encode(text)[:MAX_CHUNK] for text in texts])
        return layout.write(reading, self.ratio) if self.ratio else layout.whole(reading)

    def save(self, out: Path) -> None:
        self.reader.half().save(out / "reasoner", base_model=self.backbone.name)
        if self.ratio:
            FrozenRawLayout(self.backbone, self.compressor, self.embedding).save(out / "compressor")


def _shuffled(example: Example, draw: random.Random) -> list[str]:
    """Return the gold paragraphs of an example and two others, in some order."""
    gold = [p.text for p in example.paragraphs if p.supporting]
    rest = [p.text for p in example.paragraphs if not p.supporting]
    texts = gold + draw.sample(rest, min(2, len(rest)))
    draw.shuffle(texts)
    return texts


@dataclass(frozen=True)
class _Whole:
    """Reads chunks into uncompressed blocks, a batch of similar lengths at a time."""

    backbone: Backbone
    budget: int = 1536

    def __call__(self, chunks: Sequence[Sequence[int]]) -> list[MemoryBlock]:
        made: dict[int, MemoryBlock] = {}
        order = sorted(range(len(chunks)), key=lambda index: -len(chunks[index]))
        while order:
            size = max(1, self.budget // len(chunks[order[0]]))
            batch, order = order[:size], order[size:]
            rows = [chunks[index] for index in batch]
            made.update(zip(batch, whole_blocks(self.backbone.kv.prefill(rows), rows), strict=True))
        return [made[index] for index in range(len(chunks))]


def _recall(
    backbone: Backbone, loss: GateLoss, blocks: _Whole, gate: tuple[LoraAdapter, Tensor, Tensor], row: Example
) -> dict[str, float]:
    """Return which share of a row's gold chunks is opened first: by one look, and one after the other with notes."""
    made = blocks([backbone.encode(p.text)[:MAX_CHUNK] for p in row.paragraphs])
    gold = {index for index, p in enumerate(row.paragraphs) if p.supporting}
    every = tuple(range(len(made)))

    def scores(memory: str) -> Tensor:
        return loss.logits(*gate, made, [Judgement(row.question, memory, every, (False,) * len(every))])[0]

    first = scores("")
    opened = [int(first.argmax())]
    memory = ""
    while len(opened) < len(gold):
        memory = f"{memory} {prompts.closest_sentences(row.paragraphs[opened[-1]].text, row.question)}".strip()
        left = scores(memory)
        left[opened] = float("-inf")
        opened.append(int(left.argmax()))
    at_once = set(first.topk(len(gold)).indices.tolist())
    return {"recall_at_once": len(at_once & gold) / len(gold), "recall_by_hops": len(gold & set(opened)) / len(gold)}


def _adapter(backbone: Backbone, config: AdapterConfig, seed: int) -> LoraAdapter:
    return LoraAdapter.create(backbone.model, config.targets, rank=config.rank, alpha=config.alpha, seed=seed)


def _gate_start(folder: Path, rank: int, weight: Tensor, bias: Tensor) -> tuple[LoraAdapter, Tensor, Tensor]:
    """Return a gate's adapter and head, or a reader's adapter with the head as it is."""
    adapter = LoraAdapter.from_directory(folder)
    adapter = adapter.single() if adapter.rank == rank else adapter.reduced(rank)
    if (folder / HEAD_FILE).exists():
        head = load_file(folder / HEAD_FILE)
        weight, bias = head["weight"].float(), head["bias"].float()
    return adapter, weight, bias


def _parameters(adapters: dict[str, LoraAdapter | None]) -> dict[str, Tensor]:
    return {
        f"{part}.{name}.{side}": tensor
        for part, adapter in adapters.items()
        if adapter is not None
        for name, pair in adapter.deltas.items()
        for side, tensor in zip("AB", pair, strict=True)
    }


def _means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each measure over the parts that have it."""
    names = sorted({name for part in parts for name in part})
    return {
        f"held_out_{name}": sum(found) / len(found)
        for name in names
        for found in [[part[name] for part in parts if name in part]]
    }


def _train(
    parameters: dict[str, Tensor],
    config: LoopConfig,
    out: Path,
    step: StepLoss,
    validate: Callable[[int], dict[str, float]],
    *,
    resume: bool,
    report: Report | None,
) -> bool:
    """Train to the end; return whether it is for this process to write what was trained."""
    loop = TrainingLoop(parameters, config, out, validate=validate, report=report)
    found = loop.resume() if resume else (out / "metrics.jsonl").exists()
    if resume and not found:
        raise InputError(f"{out} holds no checkpoint.", "Start the run without resuming.")
    if not resume and found:
        raise InputError(f"{out} holds a run already.", "Resume it, or name a new folder.")
    loop.train(step)
    return loop.rank == 0
