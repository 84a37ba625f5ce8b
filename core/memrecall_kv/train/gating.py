"""Stage 4: the gate learns which blocks matter, given the question and what was learned so far.

Source: LycheeMemory, arXiv:2602.08382, the gate (published without code). Deviations, besides those of
`judgements.py`: next to the weighted binary cross-entropy, a block competes with the others of its list, since recall
is a matter of order; and a gate of all layers may teach one of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import Prefill, whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.backbone.window import LayerWindow
from memrecall_kv.compress.compressor import batches
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.compress.operators import operate
from memrecall_kv.config import CompressorConfig
from memrecall_kv.recall import grounding, prompts
from memrecall_kv.recall.gate import HEAD_FILE, latest, seeing_of
from memrecall_kv.train.adapters import named_parameters, new_adapter
from memrecall_kv.train.data import Example, load_rows
from memrecall_kv.train.judgements import GateSampler, GateTask, Judgement
from memrecall_kv.train.loop import Report, means, train_to_end
from memrecall_kv.train.settings import GateTraining
from memrecall_kv.train.tasks import MAX_CHUNK, READ_TOKENS
from memrecall_kv.types import MemoryBlock

_ROW_TOKENS = 1024
"""Prompt tokens of one forward."""
_RIDGE = 30.0
"""Shrinks a fitted head; chosen among 3, 30 and 300 by recall on halves of 46 held-out train rows."""
_SURE = 9.0
"""Logits beyond it are as good as certain: they are not worth fitting."""

Blocks = Callable[[Sequence[Sequence[int]]], tuple[list[MemoryBlock], list[MemoryBlock]]]
"""Makes of chunks of token ids the blocks that are judged, and those that a teacher judges."""
Teacher = Callable[[Sequence[MemoryBlock], Judgement], Tensor]
"""Returns the logits of a judgement's chunks, `[N]`."""


class GateLoss:
    """The loss of a gate on a task.

    Args:
        backbone: The model, frozen.
        blocks: Makes the blocks that are judged, without gradient.
        positive_weight: Weight of a relevant block in the cross-entropy.
        list_weight: Weight of the competition inside a list.
        window: The layers it reads with; `None` for all.
        seeing_tokens: As in `GateConfig`, for a window.
        noted_seeing_tokens: As in `GateConfig`, for a window.
        teacher: Whose judgements are learned besides the labels.
    """

    def __init__(
        self,
        backbone: Backbone,
        blocks: Blocks,
        *,
        positive_weight: float,
        list_weight: float,
        window: LayerWindow | None = None,
        seeing_tokens: int = 0,
        noted_seeing_tokens: int | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self._teacher = teacher
        self._backbone = backbone
        self._blocks = blocks
        self._window = window
        self._seeing_tokens = seeing_tokens
        self._noted_seeing_tokens = noted_seeing_tokens
        self._positive_weight = positive_weight
        self._list_weight = list_weight

    def __call__(
        self, adapter: LoraAdapter, weight: Tensor, bias: Tensor, task: GateTask
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yield the loss of each judgement as its share of the task's, and what it is made of."""
        with torch.no_grad():
            blocks, whole = self._blocks(task.chunks)
        share = 1 / len(task.judgements)
        for judgement in task.judgements:
            scores = self.logits(adapter, weight, bias, blocks, judgement)
            relevant = torch.tensor(judgement.relevant, device=scores.device)
            positive = scores.new_tensor(self._positive_weight)
            binary = binary_cross_entropy_with_logits(scores, relevant.float(), pos_weight=positive)
            listed = competition(scores, relevant)
            metrics = {
                "binary": share * float(binary.detach()),
                "list": share * float(listed.detach()),
                "first_right": share * float(relevant[scores.argmax()]),
            }
            loss = binary + self._list_weight * listed
            if self._teacher is not None:
                with torch.no_grad():
                    wanted = self._teacher(whole, judgement)
                taught = distance(scores, wanted)
                metrics["taught"] = share * float(taught.detach())
                loss = loss + taught
            yield share * loss, metrics

    def logits(
        self,
        adapter: LoraAdapter,
        weight: Tensor,
        bias: Tensor,
        blocks: Sequence[MemoryBlock],
        judgement: Judgement,
    ) -> Tensor:
        """Return the logits of a judgement's chunks, `[N]`."""
        return self._states(adapter, blocks, judgement) @ weight + bias

    def lessons(self, adapter: LoraAdapter, task: GateTask) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what a head sees of each judgement's chunks, `[N, hidden]`, and a teacher's logits of them, `[N]`."""
        if self._teacher is None:
            return
        blocks, whole = self._blocks(task.chunks)
        for judgement in task.judgements:
            yield self._states(adapter, blocks, judgement), self._teacher(whole, judgement)

    def _states(self, adapter: LoraAdapter, blocks: Sequence[MemoryBlock], judgement: Judgement) -> Tensor:
        """Return the state of a prompt's last token beside each of a judgement's chunks, `[N, hidden]` float32."""
        backbone = self._backbone
        known = latest(backbone, judgement.memory)
        prompt = prompts.gate_classify(judgement.question, known)
        asked = backbone.encode(prompt)
        order = sorted(range(len(judgement.chunks)), key=lambda n: blocks[judgement.chunks[n]].num_memory_tokens)
        size = max(1, _ROW_TOKENS // len(asked))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        with adapter.active(backbone.model):
            read = self._reader(prompt, self._noted_seeing_tokens if known else self._seeing_tokens)
            last = [read([[blocks[judgement.chunks[number]]] for number in part]).float() for part in parts]
        return torch.cat(last)[torch.tensor(order).argsort()]

    def _reader(self, prompt: str, seeing: int | None) -> Callable[[Sequence[Sequence[MemoryBlock]]], Tensor]:
        """Return what reads a prompt beside each row's block and returns its last token's state, `[B, hidden]`."""
        kv, window, asked = self._backbone.kv, self._window, self._backbone.encode(prompt)
        if window is None:

            def whole(placed: Sequence[Sequence[MemoryBlock]]) -> Tensor:
                ids, _ = kv.pad([asked] * len(placed))
                return kv.forward(kv.place(placed), ids=ids)[:, -1]

            return whole
        begun = window.read_prompt([asked]).seen_by([seeing_of(self._backbone, prompt, seeing)])
        return lambda placed: window.read(begun.rows([0] * len(placed)), [window.place(row) for row in placed])


def competition(scores: Tensor, relevant: Tensor) -> Tensor:
    """Return the mean over relevant blocks of -log softmax among itself and all that are not relevant, nats.

    Shapes:
        scores: `[N]`; relevant: `[N]` bool; return: `[]`, 0 if all or none are relevant.
    """
    if not relevant.any() or relevant.all():
        return scores.sum() * 0.0
    others = scores[~relevant].logsumexp(dim=0)
    gold = scores[relevant]
    return (torch.logaddexp(gold, others) - gold).mean()


def distance(scores: Tensor, wanted: Tensor) -> Tensor:
    """Return how far logits are from a teacher's, each by itself and in their order, nats.

    Source: Distilling the Knowledge in a Neural Network, arXiv:1503.02531. Deviation: the binary cross-entropy with the
    teacher's probabilities, less their entropy, is added to the divergence of the softmax over the list.

    Shapes:
        scores: `[N]`; wanted: `[N]`; return: `[]`, 0 where both are equal.
    """
    shares = wanted.sigmoid()
    apart = binary_cross_entropy_with_logits(scores, shares) - binary_cross_entropy_with_logits(wanted, shares)
    ranked = kl_div(scores.log_softmax(dim=0), wanted.log_softmax(dim=0), reduction="sum", log_target=True)
    return apart + ranked


def fitted_head(lessons: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the weight `[hidden]` and bias `[]` whose logits are nearest to a teacher's, by ridge regression.

    Args:
        lessons: States `[N, hidden]` and the teacher's logits `[N]`, of one list after the other; at least one.
    """
    products = wanted = torch.zeros((), dtype=torch.float64)
    for states, logits in lessons:
        # on the processor: not every device solves in float64
        rows = torch.cat([states.cpu().double(), torch.ones(len(states), 1, dtype=torch.float64)], dim=1)
        products = products + rows.T @ rows
        wanted = wanted + rows.T @ logits.cpu().double().clamp(-_SURE, _SURE)
    shrunk = torch.full((len(products),), _RIDGE, dtype=torch.float64)
    shrunk[-1] = 0.0
    head = torch.linalg.solve(products + shrunk.diag(), wanted).float()
    return head[:-1].clone(), head[-1].clone()


def train_gate(
    backbone: Backbone,
    settings: GateTraining,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> None:
    """Train a gate on uncompressed chunks and write `gate/`; arguments as in `reading.train_reading`."""
    rows = load_rows(settings.data, root)
    loop_config = settings.loop
    adapter = new_adapter(backbone, settings.adapter, loop_config.seed)
    weight, bias = torch.zeros(backbone.model.config.hidden_size), torch.tensor(-1.0)
    if settings.start_from:
        adapter, weight, bias = _gate_start(Path(settings.start_from), settings.adapter.rank, weight, bias)
    if settings.layers:
        adapter = adapter.below(settings.layers[1])
    loss, blocks = _loss(backbone, settings)
    sampler = GateSampler(
        backbone.encode,
        rows.train,
        lists=settings.lists,
        seed=loop_config.seed,
        mined=settings.mined,
        texts=rows.texts,
        noted_sentences=settings.noted_sentences,
    )
    held_out = [example for example in rows.held_out if len(example.paragraphs) > 1]

    def live() -> LoraAdapter:
        return adapter.to(backbone.device, backbone.dtype)

    def lessons() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(settings.fitted_lists):
            yield from loss.lessons(live(), sampler.draw(-1 - number))
            if report:
                report({"step": 0, "fitted_lists": number + 1})

    def step(number: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        return loss(live(), weight, bias, sampler.draw(number))

    def validate(_: int) -> dict[str, float]:
        with torch.inference_mode():
            return means([_recall(backbone, loss, blocks, (live(), weight, bias), row) for row in held_out])

    if settings.fitted_lists and not resume:
        with torch.no_grad():
            weight, bias = fitted_head(lessons())
    parameters = named_parameters({"gate": adapter}) | {"head.weight": weight, "head.bias": bias}
    if train_to_end(parameters, loop_config, out, step, validate, resume=resume, report=report):
        adapter.half().save(out / "gate", base_model=backbone.name)
        save_file({"weight": weight.detach().clone(), "bias": bias.detach().clone()}, out / "gate" / HEAD_FILE)


def _gate_start(folder: Path, rank: int, weight: Tensor, bias: Tensor) -> tuple[LoraAdapter, Tensor, Tensor]:
    """Return a gate's adapter and head, or a reader's adapter with the head as it is."""
    adapter = LoraAdapter.from_directory(folder)
    adapter = adapter.single() if adapter.rank == rank else adapter.reduced(rank)
    if (folder / HEAD_FILE).exists():
        head = load_file(folder / HEAD_FILE)
        weight, bias = head["weight"].float(), head["bias"].float()
    return adapter, weight, bias


def _loss(backbone: Backbone, settings: GateTraining) -> tuple[GateLoss, _Chunks]:
    """Return the loss of a gate with such settings, and what makes its blocks."""
    window = None
    if settings.layers:
        window = LayerWindow(backbone.kv, *settings.layers, start=1 + MAX_CHUNK)
    teacher = _teacher(backbone, settings)
    scorer = ImportanceScorer.from_directory(Path(settings.scorer)) if settings.scorer else None
    blocks = _Chunks(backbone, settings.layers, scorer, settings.ratio, is_taught=teacher is not None)
    loss = GateLoss(
        backbone,
        blocks,
        positive_weight=settings.positive_weight,
        list_weight=settings.list_weight,
        window=window,
        seeing_tokens=settings.seeing_tokens,
        noted_seeing_tokens=settings.noted_seeing_tokens,
        teacher=teacher,
    )
    return loss, blocks


def _teacher(backbone: Backbone, settings: GateTraining) -> Teacher | None:
    """Return the gate of all layers to learn from, if there is one."""
    if not settings.teacher:
        return None
    folder = Path(settings.teacher)
    adapter = LoraAdapter.from_directory(folder).to(backbone.device, backbone.dtype)
    head = load_file(folder / HEAD_FILE)
    weight, bias = (head[name].float().to(backbone.device) for name in ("weight", "bias"))
    # of the loss only the logits are asked for
    judge = GateLoss(backbone, lambda _: ([], []), positive_weight=1.0, list_weight=0.0)
    return partial(judge.logits, adapter, weight, bias)


@dataclass(frozen=True)
class _Chunks:
    """Reads chunks into blocks, compressed if there is a scorer, a batch of similar lengths at a time."""

    backbone: Backbone
    layers: tuple[int, int] | None
    scorer: ImportanceScorer | None
    ratio: int
    is_taught: bool

    def __call__(self, chunks: Sequence[Sequence[int]]) -> tuple[list[MemoryBlock], list[MemoryBlock]]:
        judged: dict[int, MemoryBlock] = {}
        whole: dict[int, MemoryBlock] = {}
        for batch in batches(chunks, READ_TOKENS):
            rows = [chunks[index] for index in batch]
            prefill = self.backbone.kv.prefill(rows, None if self.is_taught else self.layers)
            if self.is_taught:
                whole.update(zip(batch, whole_blocks(prefill, rows), strict=True))
                prefill = self._within(prefill)
            judged.update(zip(batch, self._blocks(prefill, rows), strict=True))
        return [judged[index] for index in range(len(chunks))], [whole[index] for index in sorted(whole)]

    def _within(self, prefill: Prefill) -> Prefill:
        """Return the window's layers of all layers."""
        window = slice(*(self.layers or (None,)))
        return Prefill(prefill.keys[window], prefill.values[window], prefill.hidden)

    def _blocks(self, prefill: Prefill, rows: Sequence[Sequence[int]]) -> list[MemoryBlock]:
        if self.scorer is None:
            return whole_blocks(prefill, rows)
        scorer = self.scorer.within(*self.layers) if self.layers else self.scorer
        config = CompressorConfig(compression_ratio=self.ratio, importance="learned", budget="adaptive")
        return operate(self.backbone, prefill, rows, config, scorer(self.backbone, prefill, rows))


def _recall(
    backbone: Backbone, loss: GateLoss, blocks: _Chunks, gate: tuple[LoraAdapter, Tensor, Tensor], row: Example
) -> dict[str, float]:
    """Return which share of a row's gold chunks is opened first: by one look, and one after the other with notes."""
    made, _ = blocks([backbone.encode(p.text)[:MAX_CHUNK] for p in row.paragraphs])
    gold = {index for index, p in enumerate(row.paragraphs) if p.supporting}
    every = tuple(range(len(made)))

    def scores(memory: str) -> Tensor:
        return loss.logits(*gate, made, Judgement(row.question, memory, every, (False,) * len(every)))

    first = scores("")
    opened = [int(first.argmax())]
    memory = ""
    while len(opened) < len(gold):
        memory = f"{memory} {grounding.closest_sentences(row.paragraphs[opened[-1]].text, row.question)}".strip()
        left = scores(memory)
        left[opened] = float("-inf")
        opened.append(int(left.argmax()))
    at_once = set(first.topk(len(gold)).indices.tolist())
    return {"recall_at_once": len(at_once & gold) / len(gold), "recall_by_hops": len(gold & set(opened)) / len(gold)}
