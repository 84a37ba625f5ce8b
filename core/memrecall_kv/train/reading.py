"""Stage 1 and 2: memory tokens learn to hold a chunk, the reader learns to answer from them, in one pass.

Source: LycheeMemory, arXiv:2602.08382, compressor pre-optimisation and fine-tuning. Deviations:

1. Compressor and reader train together, and the reader has its own low-rank deltas; the paper trains the
   compressor against an unmodified reader first.
2. The teacher of the divergence is the same reader on the uncompressed chunks, at answer tokens.
3. Reconstruction is random access: some tokens of a span are given, the next are asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.compressor import batches
from memrecall_kv.compress.frozen_raw import FrozenRawLayout, Reading
from memrecall_kv.train.adapters import named_parameters, new_adapter
from memrecall_kv.train.data import load_rows
from memrecall_kv.train.loop import Report, means, train_to_end
from memrecall_kv.train.losses import weighted_cross_entropy, weighted_divergence
from memrecall_kv.train.settings import ReadingTraining
from memrecall_kv.train.tasks import READ_TOKENS, Query, Task, TaskSampler, validation_task
from memrecall_kv.types import MemoryBlock

_QUERY_TOKENS = 1024
"""Query tokens of one forward."""


class ReadingLoss:
    """The loss of a task.

    Args:
        backbone: The model, frozen.
        kl_weight: Of the divergence from the reader on full text.
        span_weight: Of reconstruction.
    """

    def __init__(self, backbone: Backbone, *, kl_weight: float, span_weight: float) -> None:
        self._backbone = backbone
        self._kl_weight = kl_weight
        self._span_weight = span_weight

    def blocks(self, layout: FrozenRawLayout, task: Task, ratio: int) -> tuple[list[MemoryBlock], list[MemoryBlock]]:
        """Return each chunk's block and its uncompressed form; ratio 0 leaves the blocks out."""
        made: dict[int, MemoryBlock] = {}
        whole: dict[int, MemoryBlock] = {}
        for batch in batches(task.chunks, READ_TOKENS):
            reading: Reading = layout.read([task.chunks[index] for index in batch])
            whole.update(zip(batch, layout.whole(reading), strict=True))
            if ratio:
                made.update(zip(batch, layout.write(reading, ratio), strict=True))
        order = range(len(task.chunks))
        return [made[i] for i in order] if ratio else [], [whole[i] for i in order]

    def __call__(
        self,
        layout: FrozenRawLayout,
        reader: LoraAdapter,
        task: Task,
        ratio: int,
        *,
        train_text: bool,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a task and what it is made of."""
        blocks, whole = self.blocks(layout, task, ratio)
        sums: dict[str, list[Tensor]] = {}
        hits: dict[str, list[Tensor]] = {}
        asked = [query for query in task.queries if query.kind != "span"]
        spans = [query for query in task.queries if query.kind == "span"]
        for queries in _alike(asked, blocks or whole):
            teacher = None
            if train_text or not ratio or self._kl_weight:
                with nullcontext() if train_text or not ratio else torch.no_grad():
                    teacher = self._logits(reader, queries, whole)
                self._keep(sums, hits, "text", teacher, queries)
            if ratio:
                logits = self._logits(reader, queries, blocks)
                self._keep(sums, hits, "answer", logits, queries)
                if teacher is not None:
                    sums.setdefault("kl", []).append(
                        weighted_divergence(logits, teacher, _weights(queries, self._backbone))
                    )
        for queries in _alike(spans if ratio else [], blocks):
            logits = self._logits(reader, queries, blocks)
            self._keep(sums, hits, "span", logits, queries)
        counts = {"answer": len(asked), "text": len(asked), "kl": len(asked), "span": len(spans)}
        means = {name: torch.stack(parts).sum() / max(1, counts[name]) for name, parts in sums.items()}
        weights = {"answer": 1.0, "kl": self._kl_weight, "span": self._span_weight}
        weights["text"] = 1.0 if train_text or not ratio else 0.0
        loss = torch.stack([weights[name] * mean for name, mean in means.items() if weights[name]]).sum()
        metrics = {name: float(mean.detach()) for name, mean in means.items()}
        metrics |= {f"{name}_accuracy": float(torch.cat(found).mean()) for name, found in hits.items()}
        return loss, metrics

    def exact(self, layout: FrozenRawLayout, reader: LoraAdapter, task: Task, ratio: int) -> dict[str, float]:
        """Return the share of queries whose target greedy decoding would write exactly, and its cross-entropy.

        With every target token the likeliest after those before it, decoding writes the target: no need to decode.
        """
        blocks, whole = self.blocks(layout, task, ratio)
        right, losses = [], []
        for query in task.queries:
            logits = self._logits(reader, [query], blocks or whole)
            targets = torch.tensor(query.target, device=logits.device)
            right.append(float((logits.argmax(dim=-1) == targets).all()))
            losses.append(float(weighted_cross_entropy(logits, targets, _weights([query], self._backbone))))
        name = f"x{ratio}" if ratio else "text"
        return {f"exact_{name}": sum(right) / len(right), f"loss_{name}": sum(losses) / len(losses)}

    def _logits(self, reader: LoraAdapter, queries: Sequence[Query], blocks: Sequence[MemoryBlock]) -> Tensor:
        """Return the logits at the target tokens, row after row, `[N, V]`."""
        backbone = self._backbone
        state = backbone.kv.place([[blocks[index] for index in query.chunks] for query in queries])
        ids, lengths = backbone.kv.pad([[*query.prompt, *query.target[:-1]] for query in queries])
        with reader.active(backbone.model):
            hidden = backbone.kv.forward(state, ids=ids, lengths=lengths)
        rows = [
            hidden[row, len(query.prompt) - 1 : len(query.prompt) - 1 + len(query.target)]
            for row, query in enumerate(queries)
        ]
        return backbone.kv.logits(torch.cat(rows), precise=False)

    def _keep(
        self,
        sums: dict[str, list[Tensor]],
        hits: dict[str, list[Tensor]],
        name: str,
        logits: Tensor,
        queries: Sequence[Query],
    ) -> None:
        targets = torch.tensor([token for query in queries for token in query.target], device=logits.device)
        sums.setdefault(name, []).append(weighted_cross_entropy(logits, targets, _weights(queries, self._backbone)))
        hits.setdefault(name, []).append((logits.detach().argmax(dim=-1) == targets).float())


def _weights(queries: Sequence[Query], backbone: Backbone) -> Tensor:
    """Weigh tokens so that every query counts the same, however long its reply."""
    weights = [1 / len(query.target) for query in queries for _ in query.target]
    return torch.tensor(weights, device=backbone.device)


def _alike(queries: Sequence[Query], blocks: Sequence[MemoryBlock]) -> Iterator[list[Query]]:
    """Yield queries with blocks and texts of similar lengths."""

    def width(query: Query) -> tuple[int, int]:
        before = sum(blocks[index].num_memory_tokens for index in query.chunks)
        return before // 64, len(query.prompt) + len(query.target)

    ordered = sorted(queries, key=width)
    for batch in _in_order([len(query.prompt) + len(query.target) for query in ordered], _QUERY_TOKENS):
        yield [ordered[index] for index in batch]


def _in_order(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of neighbours whose padded sizes fit a budget."""
    batch: list[int] = []
    longest = 0
    for index, size in enumerate(sizes):
        longest = max(longest, size)
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch, longest = [], size
        batch.append(index)
    if batch:
        yield batch


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
    reader = new_adapter(backbone, settings.reader, loop_config.seed)
    if settings.start_from:
        reader = LoraAdapter.from_directory(Path(settings.start_from)).single()
    compressor = new_adapter(backbone, settings.compressor, loop_config.seed + 1) if settings.ratios else None
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
        return means(parts)

    parameters = named_parameters({"reader": reader, "compressor": compressor})
    if compressor:
        parameters["embedding"] = embedding
    if train_to_end(parameters, loop_config, out, step, validate, resume=resume, report=report):
        reader.half().save(out / "reasoner", base_model=backbone.name)
        if compressor:
            FrozenRawLayout(backbone, compressor, embedding).save(out / "compressor")
