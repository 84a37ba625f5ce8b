"""Stage 4: the gate learns which blocks matter, given the question and what was learned so far.

Source: LycheeMemory, arXiv:2602.08382, the gate (published without code). Deviation, besides those of `judgements.py`:
next to the weighted binary cross-entropy, a block competes with the others of its list: recall is a matter of order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.backbone.window import LayerWindow
from memrecall_kv.compress.compressor import batches
from memrecall_kv.recall import grounding, prompts
from memrecall_kv.recall.gate import HEAD_FILE, latest, seeing_of, telling
from memrecall_kv.train.adapters import named_parameters, new_adapter
from memrecall_kv.train.data import Example, load_rows
from memrecall_kv.train.judgements import GateSampler, GateTask, Judgement
from memrecall_kv.train.loop import Report, means, train_to_end
from memrecall_kv.train.settings import GateTraining
from memrecall_kv.train.tasks import MAX_CHUNK, READ_TOKENS
from memrecall_kv.types import MemoryBlock

_ROW_TOKENS = 1024
"""Prompt tokens of one forward."""

Blocks = Callable[[Sequence[Sequence[int]]], list[MemoryBlock]]
"""Compresses chunks of token ids."""


class GateLoss:
    """The loss of a gate on a task.

    Args:
        backbone: The model, frozen.
        blocks: Makes the blocks that are judged, without gradient.
        positive_weight: Weight of a relevant block in the cross-entropy.
        list_weight: Weight of the competition inside a list.
        window: The layers it reads with; `None` for all.
        seeing_tokens: As in `GateConfig`, for a window.
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
    ) -> None:
        self._backbone = backbone
        self._blocks = blocks
        self._window = window
        self._seeing_tokens = seeing_tokens
        self._positive_weight = positive_weight
        self._list_weight = list_weight

    def __call__(
        self, adapter: LoraAdapter, weight: Tensor, bias: Tensor, task: GateTask
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yield the loss of each judgement as its share of the task's, and what it is made of."""
        with torch.no_grad():
            blocks = self._blocks(task.chunks)
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
            yield share * (binary + self._list_weight * listed), metrics

    def logits(
        self,
        adapter: LoraAdapter,
        weight: Tensor,
        bias: Tensor,
        blocks: Sequence[MemoryBlock],
        judgement: Judgement,
    ) -> Tensor:
        """Return the logits of a judgement's chunks, `[N]`."""
        backbone = self._backbone
        known = latest(backbone, judgement.memory)
        asked = backbone.encode(prompts.gate_classify(judgement.question, known))
        order = sorted(range(len(judgement.chunks)), key=lambda n: blocks[judgement.chunks[n]].num_memory_tokens)
        size = max(1, _ROW_TOKENS // len(asked))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        with adapter.active(backbone.model):
            read = self._reader(asked, has_notes=bool(known))
            last = [read([[blocks[judgement.chunks[number]]] for number in part]).float() for part in parts]
        return (torch.cat(last) @ weight + bias)[torch.tensor(order).argsort()]

    def _reader(self, asked: list[int], *, has_notes: bool) -> Callable[[Sequence[Sequence[MemoryBlock]]], Tensor]:
        """Return what reads a prompt beside each row's block and returns its last token's state, `[B, hidden]`."""
        kv, window = self._backbone.kv, self._window
        if window is None:

            def whole(placed: Sequence[Sequence[MemoryBlock]]) -> Tensor:
                ids, _ = kv.pad([asked] * len(placed))
                return kv.forward(kv.place(placed), ids=ids)[:, -1]

            return whole
        count = seeing_of(self._seeing_tokens, has_notes=has_notes)
        begun = window.read_prompt([asked], [telling(self._backbone, asked, count)])
        return lambda placed: window.read(begun.rows([0] * len(placed)), window.place(placed))


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
    window = None
    if settings.layers:
        window = LayerWindow(backbone.kv, *settings.layers, start=1 + MAX_CHUNK)
    blocks = _Whole(backbone, settings.layers)
    loss = GateLoss(
        backbone,
        blocks,
        positive_weight=settings.positive_weight,
        list_weight=settings.list_weight,
        window=window,
        seeing_tokens=settings.seeing_tokens,
    )
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
            return means([_recall(backbone, loss, blocks, (live(), weight, bias), row) for row in held_out])

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


@dataclass(frozen=True)
class _Whole:
    """Reads chunks into uncompressed blocks, a batch of similar lengths at a time."""

    backbone: Backbone
    layers: tuple[int, int] | None

    def __call__(self, chunks: Sequence[Sequence[int]]) -> list[MemoryBlock]:
        made: dict[int, MemoryBlock] = {}
        for batch in batches(chunks, READ_TOKENS):
            rows = [chunks[index] for index in batch]
            made.update(zip(batch, whole_blocks(self.backbone.kv.prefill(rows, self.layers), rows), strict=True))
        return [made[index] for index in range(len(chunks))]


def _recall(
    backbone: Backbone, loss: GateLoss, blocks: _Whole, gate: tuple[LoraAdapter, Tensor, Tensor], row: Example
) -> dict[str, float]:
    """Return which share of a row's gold chunks is opened first: by one look, and one after the other with notes."""
    made = blocks([backbone.encode(p.text)[:MAX_CHUNK] for p in row.paragraphs])
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
