"""How likely it is that a block matters, given the question and what was learned so far."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import KVState
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.backbone.window import LayerWindow, PlacedRow, ReadPrompt
from memrecall_kv.bank.tokens import word_spans
from memrecall_kv.config import GateConfig
from memrecall_kv.errors import InputError
from memrecall_kv.recall import prompts
from memrecall_kv.types import MemoryBlock, WorkingMemory

HEAD_FILE = "gate_head.safetensors"
_MEMORY_TOKENS = 72
"""Tokens of the working memory that a classifier reads, in training and after."""
_BUCKET = 32
"""Memory tokens are padded to a multiple of this, so that equal blocks meet equal shapes."""
_CLOSING = 4
"""Last tokens of a prompt that always see the block: the word that is judged by."""
_AT_ONCE = 128
"""Tokens that are read in one forward."""
_GLANCES = 4
"""Times as many rows in the forward of a glance: with few tokens each, a layer's weights are read for more of them."""
_PIECE = 64
"""Tokens of each forward where there are more: masks and logits grow with them times what stands before them."""


class Gate(Protocol):
    """What the scan needs of a gate."""

    def score(self, question: str, notes: WorkingMemory, blocks: Sequence[MemoryBlock]) -> list[float]:
        """Return the probability, in [0, 1], that each block matters.

        A block's score must not depend on its neighbours beyond rounding.
        """
        ...


@runtime_checkable
class GlancingGate(Gate, Protocol):
    """A gate that has an estimate for less."""

    def glance(self, question: str, notes: WorkingMemory, blocks: Sequence[MemoryBlock]) -> list[float]:
        """Return an estimate of what `score` returns."""
        ...


_Row = TypeVar("_Row")

AtRest = MemoryBlock | PlacedRow
"""A block, or what a gate made of it to read it again and again."""


@runtime_checkable
class PlacingGate(Protocol):
    """A gate that can get ready once what it reads of a block."""

    def place(self, block: MemoryBlock) -> AtRest:
        """Return what `score` and `glance` take instead of the block."""
        ...


class LikelihoodGate:
    """Asks how much likelier a block makes the question, and the notes so far. Needs no training.

    The gain is the mean log-likelihood of the text [notes, question] after the block minus without it,
    in nats per token; the probability is its logistic, scaled by the config's bias and temperature.
    The notes are part of the measured text: a block that explains a name in them gains by it.

    Source:
        Query likelihood: Improving Passage Retrieval with Zero-Shot Question Generation (UPR),
        arXiv:2204.07496. Deviations: reads compressed blocks; subtracts the likelihood without the
        block; measures the notes too.

    Args:
        backbone: The model.
        config: Batch, bias and temperature.
        unrotated: Read blocks with keys left un-rotated.
    """

    def __init__(self, backbone: Backbone, config: GateConfig, *, unrotated: bool = False) -> None:
        self._backbone = backbone
        self._config = config
        self._unrotated = unrotated

    def score(self, question: str, notes: WorkingMemory, blocks: Sequence[MemoryBlock]) -> list[float]:
        """Return the probability of each block; see `Gate`.

        Raises:
            ContextOverflowError: If block, notes and question do not fit the window.
        """
        lead = self._backbone.encode(prompts.gate_lead())
        text = self._backbone.encode(prompts.gate_question(question, notes.text))
        gains: list[float] = []
        # one row of every batch holds no block: the likelihood to subtract
        for batch in _fixed_batches(blocks, self._config.batch_size):
            likelihoods = self._likelihoods(lead, text, [[], *batch])
            gains += (likelihoods[1:] - likelihoods[0]).tolist()
        scaled = [(gain - self._config.bias) / self._config.temperature for gain in gains[: len(blocks)]]
        return [_logistic(value) for value in scaled]

    def _likelihoods(self, lead: list[int], text: list[int], rows: list[list[MemoryBlock]]) -> Tensor:
        """Return the mean log-likelihood of the text after each row's blocks, `[B]` float32."""
        with torch.inference_mode():
            state = self._backbone.kv.place(rows, width=_width(rows), unrotated=self._unrotated)
            ids, _ = self._backbone.kv.pad([[*lead, *text]] * len(rows))
            hidden = torch.cat(list(_read(self._backbone, state, ids)), dim=1)[:, len(lead) - 1 : -1]
            targets = ids[:, len(lead) :]
            parts = zip(_pieces(hidden), _pieces(targets), strict=True)
            likelihood = torch.cat([self._log_likelihood(part, target) for part, target in parts], dim=1)
        return likelihood.mean(dim=1)

    def _log_likelihood(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the log-likelihood of each target, `[B, n, hidden]`, `[B, n] -> [B, n]` float32."""
        logits = self._backbone.kv.logits(hidden)  # [B, n, V]
        chosen: Tensor = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(dim=-1)
        return chosen


class ClassifierGate:
    """A linear head on the last token of [block][question][working memory], with LoRA deltas on.

    Source:
        LycheeMemory, arXiv:2602.08382, the gate. Published without code or weights. Deviation: it may read a window of
        the backbone's layers (`GateConfig.layers`); relevance shows before the last of them.

    Args:
        backbone: The model.
        config: Batch size.
        adapter: Deltas that are on while the gate reads.
        weight: `[hidden]`.
        bias: `[]`.
        unrotated: Read blocks with keys left un-rotated.
        window: The layers it reads with; `None` for all.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: GateConfig,
        adapter: LoraAdapter,
        weight: Tensor,
        bias: Tensor,
        *,
        unrotated: bool = False,
        window: LayerWindow | None = None,
    ) -> None:
        self._backbone = backbone
        self._config = config
        self._unrotated = unrotated
        self._window = window
        self._adapter = adapter.to(backbone.device, backbone.dtype)
        self._read: tuple[str, ReadPrompt] | None = None
        self._weight, self._bias = (tensor.float().to(backbone.device) for tensor in (weight, bias))

    @classmethod
    def from_directory(
        cls,
        backbone: Backbone,
        config: GateConfig,
        path: Path,
        *,
        unrotated: bool = False,
        window: LayerWindow | None = None,
    ) -> ClassifierGate:
        """Load what `save` wrote.

        Raises:
            InputError: If a file is missing or unreadable.
        """
        try:
            head = load_file(path / HEAD_FILE)
            weight, bias = head["weight"], head["bias"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(
                f"{path} holds no gate: {error}", "Give a directory written by save_pretrained."
            ) from error
        adapter = LoraAdapter.from_directory(path)
        return cls(backbone, config, adapter, weight, bias, unrotated=unrotated, window=window)

    def save(self, path: Path) -> None:
        """Write adapter and head."""
        self._adapter.save(path, base_model=self._backbone.name)
        save_file({"weight": self._weight.cpu().clone(), "bias": self._bias.cpu().clone()}, path / HEAD_FILE)

    def place(self, block: MemoryBlock) -> AtRest:
        """Return a block as the gate's layers read it; one that reads all layers takes it as it is."""
        return self._window.place([block]) if self._window else block

    def score(self, question: str, notes: WorkingMemory, blocks: Sequence[AtRest]) -> list[float]:
        """Return the probability of each block; see `Gate`.

        Raises:
            ContextOverflowError: If block, notes and question do not fit the window.
        """
        count = self._config.noted_seeing_tokens if notes.text else self._config.seeing_tokens
        return self._probabilities(question, notes, blocks, count, self._config.batch_size)

    def glance(self, question: str, notes: WorkingMemory, blocks: Sequence[AtRest]) -> list[float]:
        """Return what `score` would if few of the prompt's tokens saw a block; without `glance_tokens`, what it does.

        Raises:
            ContextOverflowError: If block, notes and question do not fit the window.
        """
        if self._config.glance_tokens is None:
            return self.score(question, notes, blocks)
        return self._probabilities(
            question, notes, blocks, self._config.glance_tokens, _GLANCES * self._config.batch_size
        )

    def _probabilities(
        self, question: str, notes: WorkingMemory, blocks: Sequence[AtRest], seeing: int | None, rows: int
    ) -> list[float]:
        prompt = prompts.gate_classify(question, latest(self._backbone, notes.text))
        probabilities: list[float] = []
        window = self._merged  # copied while the deltas are off
        with torch.inference_mode(), self._adapter.active(self._backbone.model):
            if window is None:
                whole = [block for block in blocks if isinstance(block, MemoryBlock)]
                states = self._beside_all_layers(prompt, _fixed_batches(whole, rows))
            else:
                placed = [window.place([block]) if isinstance(block, MemoryBlock) else block for block in blocks]
                states = self._beside_window(window, prompt, seeing, _batches(placed, rows))
            for last in states:
                probabilities += torch.sigmoid(last.float() @ self._weight + self._bias).tolist()
        return probabilities[: len(blocks)]

    @cached_property
    def _merged(self) -> LayerWindow | None:
        """The window with the deltas in its layers: faster by a tenth than deltas beside them."""
        return self._window and self._window.with_deltas(self._backbone.model, self._adapter)

    def _beside_all_layers(self, prompt: str, batches: Sequence[Sequence[Sequence[MemoryBlock]]]) -> Iterator[Tensor]:
        """Read the prompt beside each row's blocks; yield its last token's states by batch, `[B, hidden]`."""
        kv, asked = self._backbone.kv, self._backbone.encode(prompt)
        for rows in batches:
            state = kv.place(rows, width=_width(rows), unrotated=self._unrotated)
            ids, _ = kv.pad([asked] * len(rows))
            *_, hidden = _read(self._backbone, state, ids)
            yield hidden[:, -1]

    def _beside_window(
        self, window: LayerWindow, prompt: str, seeing: int | None, batches: Sequence[Sequence[PlacedRow]]
    ) -> Iterator[Tensor]:
        """The same in the layers of a window, of which as many tokens as `seeing` see blocks."""
        if self._read is None or self._read[0] != prompt:
            # a glance and the full looks after it read the same prompt
            self._read = prompt, window.read_prompt([self._backbone.encode(prompt)])
        begun = self._read[1].seen_by([seeing_of(self._backbone, prompt, seeing)])
        for rows in batches:
            yield window.read(begun.rows([0] * len(rows)), rows)


def seeing_of(backbone: Backbone, prompt: str, count: int | None) -> list[int]:
    """Return which tokens of a prompt are to see a block, in order.

    They are its last few and the ends of its most telling words: the end of a word has read the whole of it, and where
    a word comes again its last place has read most. Names, numbers, and words that a tokenizer knows only in pieces
    tell most; among others the rarest, which are those that it numbers last. So in every language that it knows.

    Args:
        backbone: Whose tokens they are.
        prompt: The text.
        count: How many tokens see a block; all of them if `None`.
    """
    ids, spans = backbone.encode(prompt), backbone.token_spans(prompt)
    if count is None or count >= len(ids):
        return list(range(len(ids)))
    ends = [end for _, end in spans]
    told: dict[str, tuple[bool, int, int, int]] = {}
    for start, end in word_spans(prompt):
        first = bisect_right(ends, start)
        if first == len(ids) or spans[first][0] >= end:
            continue  # a tokenizer may drop what it does not know
        last = max(first, bisect_right(ends, end) - 1)
        word, pieces = prompt[start:end], 1 + last - first
        is_name = pieces > 1 or not word[0].islower()
        told[word.casefold()] = (is_name, pieces, max(ids[first : last + 1]), last)
    closing = range(max(0, len(ids) - _CLOSING), len(ids))
    words = [place for *_, place in sorted(told.values(), reverse=True) if place not in closing]
    others = [place for place in reversed(range(closing.start)) if place not in words]
    return sorted([*reversed(closing), *dict.fromkeys(words), *others][:count])


def latest(backbone: Backbone, notes: str) -> str:
    """Return the end of the notes, as much of it as a trained gate has learned to read."""
    ids = backbone.encode(notes) if notes else []
    return backbone.decode(ids[-_MEMORY_TOKENS:]) if len(ids) > _MEMORY_TOKENS else notes


def _batches(blocks: Sequence[_Row], size: int) -> list[Sequence[_Row]]:
    """Split into batches of at most `size`."""
    return [blocks[start : start + size] for start in range(0, len(blocks), size)]


def _fixed_batches(blocks: Sequence[MemoryBlock], size: int) -> list[list[list[MemoryBlock]]]:
    """Split into batches of exactly `size` rows of a block; the last is filled up with empty rows."""
    return [
        [*([block] for block in batch), *([] for _ in range(size - len(batch)))] for batch in _batches(blocks, size)
    ]


def _read(backbone: Backbone, state: KVState, ids: Tensor) -> Iterator[Tensor]:
    """Read ids that no row pads, piece by piece; yield the hidden states of each, `[B, n, hidden]`."""
    for piece in _pieces(ids):
        yield backbone.kv.forward(state, ids=piece)


def _pieces(rows: Tensor) -> Sequence[Tensor]:
    """Return `[B, n, ...]` in pieces along n."""
    width = rows.shape[1]
    return torch.split(rows, width if width <= _AT_ONCE else _PIECE, dim=1)


def _width(rows: Sequence[Sequence[MemoryBlock]]) -> int:
    longest = max(sum(block.width for block in row) for row in rows)
    return math.ceil(longest / _BUCKET) * _BUCKET


def _logistic(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * value))


def shift_odds(probability: float, added: float) -> float:
    """Return a probability with something added to its log-odds; 0 and 1 stay what they are."""
    if added == 0.0 or not 0.0 < probability < 1.0:
        return probability
    return _logistic(math.log(probability / (1.0 - probability)) + added)
