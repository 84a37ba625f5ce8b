"""Stage 4: the gate learns which blocks matter, given the question and what was learned so far.

Source: LycheeMemory, arXiv:2602.08382, the gate (published without code). Deviations:

1. Besides the weighted binary cross-entropy, a block competes with the others of its list: recall is a
   matter of order.
2. States are built from the supporting sentences of the training rows: nothing known, some of the hops known,
   and a distractor's sentence known. The paper logs them from rollouts.
3. Part of the negatives are chunks of other questions that share most words with the state: at question time
   that is how candidates come out of a large bank.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.evaluate.tasks.haystack import answer_finder, word_runs
from memrecall_kv.recall import prompts
from memrecall_kv.recall.gate import latest
from memrecall_kv.recall.lexical import LexicalIndex
from memrecall_kv.train.data import Example
from memrecall_kv.train.tasks import MAX_CHUNK, evidence
from memrecall_kv.types import MemoryBlock

_ROW_TOKENS = 1024
_READ_TOKENS = 1536
_SINGLE_LIST = 6
_OWN_DISTRACTORS = 6
_MINED_FROM = 30
"""Best places by words that negatives are drawn from."""

Blocks = Callable[[Sequence[Sequence[int]]], list[MemoryBlock]]
"""Compresses chunks of token ids."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A question in a state of knowledge, and which of a list's chunks matter in it.

    Attributes:
        question: The question.
        memory: What is known; empty at the start.
        chunks: Indices of the chunks that are judged.
        relevant: Whether each of them matters.
    """

    question: str
    memory: str
    chunks: tuple[int, ...]
    relevant: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class GateTask:
    """A step's chunks and judgements."""

    chunks: tuple[tuple[int, ...], ...]
    judgements: tuple[Judgement, ...]


class GateSampler:
    """Draws lists of chunks with the states in which they are judged; a pure function of seed and step.

    Args:
        encode: Text to token ids.
        examples: Questions; those with one paragraph are judged beside others of their group.
        lists: Lists per task.
        seed: Of everything that is drawn.
        mined: Negatives of other questions per state.
        texts: Further texts to take them from.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        examples: Sequence[Example],
        *,
        lists: int,
        seed: int,
        mined: int = 0,
        texts: Sequence[str] = (),
    ) -> None:
        self._encode = encode
        self._lists = lists
        self._seed = seed
        self._mined = mined
        datasets: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            if len(example.paragraphs) > 1:
                datasets[example.dataset].append(example)
        self._multi = list(datasets.values())
        self._multi_weights = [len(rows) ** 0.5 for rows in self._multi]
        self._haystack = sorted({*texts, *(p.text for e in examples for p in e.paragraphs)}) if mined else []
        self._index = LexicalIndex(self._haystack) if mined else None
        groups: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            if len(example.paragraphs) == 1:
                groups[example.group][example.paragraphs[0].text].append(example)
        self._groups = [list(group.values()) for group in groups.values() if len(group) > 1]
        self._group_weights = [sum(len(asked) for asked in group) ** 0.5 for group in self._groups]

    def draw(self, step: int) -> GateTask:
        """Return the task of a step."""
        draw = random.Random(f"{self._seed}:{step}")  # noqa: S311  # sampling, not secrecy
        chunks: list[tuple[int, ...]] = []
        judgements: list[Judgement] = []
        for _ in range(self._lists):
            multi = bool(self._multi) and (draw.random() < 0.7 or not self._groups)
            texts, judged = self._chain(draw) if multi else self._paragraphs(draw)
            first = len(chunks)
            chunks += [tuple(self._encode(text)[:MAX_CHUNK]) for text in texts]
            judgements += [
                Judgement(j.question, j.memory, tuple(first + index for index in j.chunks), j.relevant) for j in judged
            ]
        return GateTask(tuple(chunks), tuple(judgements))

    def _chain(self, draw: random.Random) -> tuple[list[str], list[Judgement]]:
        """A question over several paragraphs, at the start and after some of its hops."""
        (rows,) = draw.choices(self._multi, self._multi_weights)
        example = draw.choice(rows)
        rest = [p for p in example.paragraphs if not p.supporting]
        paragraphs = [p for p in example.paragraphs if p.supporting] + draw.sample(
            rest, min(len(rest), _OWN_DISTRACTORS)
        )
        draw.shuffle(paragraphs)
        gold = [index for index, p in enumerate(paragraphs) if p.supporting]
        others = [index for index, p in enumerate(paragraphs) if not p.supporting]
        texts = [p.text for p in paragraphs]
        texts += self._alike(example.question, example, draw)
        judgements = [_judge(example.question, "", range(len(texts)), gold)]
        if len(gold) > 1:
            left = draw.sample(gold, draw.randint(1, len(gold) - 1))
            known = [paragraphs[index] for index in gold if index not in left]
            if draw.random() < 0.15 and others:
                known = [paragraphs[draw.choice(others)]]
            memory = " ".join(" ".join(p.sentences) or evidence(p.text, example) for p in known)
            alike = self._alike(f"{example.question} {memory}", example, draw)
            places = [*left, *draw.sample(others, min(len(others), 3)), *range(len(texts), len(texts) + len(alike))]
            texts += alike
            judgements.append(_judge(example.question, memory, places, left))
        return texts, judgements

    def _alike(self, query: str, example: Example, draw: random.Random) -> list[str]:
        """Texts of other questions that share most words with a query and are no evidence."""
        if self._index is None:
            return []
        scores = self._index.scores(query)
        best = heapq.nlargest(_MINED_FROM, range(len(scores)), key=scores.__getitem__)
        own = {run for p in example.paragraphs for run in word_runs(p.text)}
        answers = answer_finder(example.answers)
        found = [
            text
            for text in (self._haystack[index] for index in best if scores[index] > 0.0)
            if own.isdisjoint(word_runs(text)) and not answers(text)
        ]
        return draw.sample(found, min(len(found), self._mined))

    def _paragraphs(self, draw: random.Random) -> tuple[list[str], list[Judgement]]:
        """Paragraphs of one article or story, with a question on each of three of them."""
        group = draw.choices(self._groups, self._group_weights)[0]
        asked = draw.sample(group, min(_SINGLE_LIST, len(group)))
        places = list(range(len(asked)))
        judgements = [_judge(draw.choice(asked[place]).question, "", places, [place]) for place in places[:3]]
        return [examples[0].paragraphs[0].text for examples in asked], judgements


def _judge(question: str, memory: str, chunks: Sequence[int], gold: Sequence[int]) -> Judgement:
    return Judgement(question, memory, tuple(chunks), tuple(index in gold for index in chunks))


class GateLoss:
    """The loss of a gate on a task.

    Args:
        backbone: The model, frozen.
        blocks: Makes the blocks that are judged, without gradient.
        positive_weight: Weight of a relevant block in the cross-entropy.
        list_weight: Weight of the competition inside a list.
    """

    def __init__(self, backbone: Backbone, blocks: Blocks, *, positive_weight: float, list_weight: float) -> None:
        self._backbone = backbone
        self._blocks = blocks
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
            (scores,) = self.logits(adapter, weight, bias, blocks, [judgement])
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
        judgements: Sequence[Judgement],
    ) -> list[Tensor]:
        """Return the logits of each judgement's chunks."""
        encode, backbone = self._backbone.encode, self._backbone
        rows = [
            (number, place, prompt)
            for number, judgement in enumerate(judgements)
            for prompt in [encode(prompts.gate_classify(judgement.question, latest(backbone, judgement.memory)))]
            for place in judgement.chunks
        ]
        rows.sort(key=lambda row: (len(row[2]), blocks[row[1]].num_memory_tokens))
        found: dict[tuple[int, int], Tensor] = {}
        start = 0
        while start < len(rows):
            size = max(1, _ROW_TOKENS // len(rows[start][2]))
            batch = rows[start : start + size]
            start += len(batch)
            state = backbone.kv.place([[blocks[place]] for _, place, _ in batch])
            ids, lengths = backbone.kv.pad([prompt for *_, prompt in batch])
            with adapter.active(backbone.model):
                hidden = backbone.kv.forward(state, ids=ids, lengths=lengths)
            last = hidden[torch.arange(len(batch)), lengths - 1].float()
            scores = last @ weight + bias
            found.update({(number, place): scores[row] for row, (number, place, _) in enumerate(batch)})
        return [
            torch.stack([found[number, place] for place in judgement.chunks])
            for number, judgement in enumerate(judgements)
        ]


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
