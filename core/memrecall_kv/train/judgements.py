"""What a gate learns from: lists of chunks, and the states of knowledge in which they are judged.

Source: LycheeMemory, arXiv:2602.08382, the gate (published without code). Deviations:

1. States are built from the supporting sentences of the training rows: nothing known, some of the hops known,
   and a distractor's sentence known. The paper logs them from rollouts.
2. Part of the negatives are chunks of other questions that share most words with the state: at question time
   that is how candidates come out of a large bank.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memrecall_kv.evaluate.lexical import LexicalIndex
from memrecall_kv.evaluate.tasks.haystack import answer_finder, word_runs
from memrecall_kv.recall.grounding import closest_sentences
from memrecall_kv.train.data import Example, Paragraph
from memrecall_kv.train.tasks import MAX_CHUNK, evidence

_SINGLE_LIST = 6
_OWN_DISTRACTORS = 6
_MINED_FROM = 30
"""Best places by words that negatives are drawn from."""


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
        noted_sentences: As in `GateTraining`.
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
        noted_sentences: int = 0,
    ) -> None:
        self._encode = encode
        self._noted_sentences = noted_sentences
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
            memory = self._notes(example, known, draw)
            alike = self._alike(f"{example.question} {memory}", example, draw)
            places = [*left, *draw.sample(others, min(len(others), 3)), *range(len(texts), len(texts) + len(alike))]
            texts += alike
            judgements.append(_judge(example.question, memory, places, left))
        return texts, judgements

    def _notes(self, example: Example, known: Sequence[Paragraph], draw: random.Random) -> str:
        """Return what is known of paragraphs: their supporting sentences, or those that a pipeline would note."""
        count = self._noted_sentences
        if count and draw.random() < 0.5:
            return " ".join(closest_sentences(p.text, example.question, count) for p in known)
        return " ".join(" ".join(p.sentences) or evidence(p.text, example) for p in known)

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
