"""What is asked of a set of chunks in one training step.

Sampling is a pure function of (seed, step): nothing about the data has to be saved to resume exactly.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from memrecall_kv.recall import grounding, prompts
from memrecall_kv.train.data import Example

SPAN_CUE = 8
"""Tokens of a span that are given in random-access reconstruction."""
SPAN_TARGET = 24
"""Tokens of a span that are asked for."""
MAX_ANSWER = 24
MAX_NOTE = 48
READ_TOKENS = 1536
"""Chunk tokens of one forward: little enough to keep gradients of."""
MAX_CHUNK = 320


@dataclass(frozen=True, slots=True)
class Query:
    """One thing asked of some chunks.

    Attributes:
        chunks: Indices of the batch's chunks, in the order in which they are placed.
        prompt: Token ids read after them.
        target: Token ids to be predicted.
        kind: `answer`, `refuse`, `note`, `skip` (a note of nothing) or `span`.
    """

    chunks: tuple[int, ...]
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Task:
    """A step's chunks, each read once, and everything asked of them."""

    chunks: tuple[tuple[int, ...], ...]
    queries: tuple[Query, ...]


class Tokenizer(Protocol):
    """What drawing a task asks of a backbone."""

    @property
    def end_id(self) -> int:
        """Return the token that a trained reader ends a reply with."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""


class TaskSampler:
    """Draws tasks from questions and plain texts.

    Args:
        backbone: Its tokenizer.
        examples: Questions.
        texts: Plain texts for reconstruction.
        budget: Chunk tokens per task, about.
        spans: Reconstruction spans per chunk.
        seed: Of everything that is drawn.
    """

    def __init__(
        self,
        backbone: Tokenizer,
        examples: Sequence[Example],
        texts: Sequence[str],
        *,
        budget: int,
        spans: int,
        seed: int,
    ) -> None:
        self._backbone = backbone
        self._texts = texts
        self._budget = budget
        self._spans = spans
        self._seed = seed
        self._multi = [example for example in examples if len(example.paragraphs) > 1]
        by_text: dict[str, list[Example]] = defaultdict(list)
        self._by_group: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            if len(example.paragraphs) == 1:
                by_text[example.paragraphs[0].text].append(example)
                self._by_group[example.group].append(example)
        self._single = list(by_text.values())

    def draw(self, step: int) -> Task:
        """Return the task of a step."""
        draw = random.Random(f"{self._seed}:{step}")  # noqa: S311  # sampling, not secrecy
        task = _Draft(self._backbone)
        while task.size < self._budget:
            kind = draw.random()
            if self._texts and kind < 0.2:
                self._plain(task, draw)
            elif self._multi and (kind < 0.45 or not self._single):
                self._chain(task, draw)
            else:
                self._paragraph(task, draw)
        return task.done()

    def _plain(self, task: _Draft, draw: random.Random) -> None:
        """A piece of plain text, to be reconstructed."""
        text = draw.choice(self._texts)
        start = draw.randrange(max(1, len(text) - 1200))
        start = text.find(" ", start) + 1 if start else 0
        task.spans(task.chunk(text[start : start + draw.randint(400, 1200)]), self._spans, draw)

    def _paragraph(self, task: _Draft, draw: random.Random) -> None:
        """One paragraph and up to four of its questions; some of the time beside another of its article."""
        asked = draw.choice(self._single)
        text = asked[0].paragraphs[0].text
        place = task.chunk(text)
        task.spans(place, self._spans // 2, draw)
        questions = draw.sample(asked, min(4, len(asked)))
        other = draw.choice(self._by_group[asked[0].group]).paragraphs[0].text
        beside = [task.chunk(other)] if other != text and draw.random() < 0.5 else []
        for example in questions:
            places = [place, *beside]
            draw.shuffle(places)
            task.ask(example, places)
        if beside:
            task.refuse(questions[0], beside)
        # as many notes of something as of nothing: a reader that sees more of nothing stops taking notes
        if beside and draw.random() < 0.5:
            task.note(questions[0], beside, "")
        if draw.random() < 0.4:
            task.note(questions[-1], [place], evidence(text, questions[-1]))

    def _chain(self, task: _Draft, draw: random.Random) -> None:
        """A question over several paragraphs with distractors: the answer, and what a walk over them would note."""
        example = draw.choice(self._multi)
        gold = [p for p in example.paragraphs if p.supporting]
        rest = [p.text for p in example.paragraphs if not p.supporting]
        extra = draw.sample(rest, min(len(rest), draw.choice((0, 1, 2, 3, 5, 8))))
        own, beside = [task.chunk(p.text) for p in gold], [task.chunk(text) for text in extra]
        notes = [" ".join(p.sentences) or evidence(p.text, example) for p in gold]
        for place in own:
            task.spans(place, self._spans // 4, draw)
        places = own + beside
        draw.shuffle(places)
        task.ask(example, places)
        last = draw.randrange(len(gold))
        known = " ".join(note for index, note in enumerate(notes) if index != last)
        kind = draw.randrange(4)
        if kind == 0:
            task.ask(example, [], memory=f"{known} {notes[last]}")
        elif kind == 1:
            task.ask(example, [own[last]], memory=known)
        elif kind == 2:
            task.note(example, [own[last]], notes[last], memory=known if draw.random() < 0.7 else "")
        elif beside:
            task.refuse(example, beside)
        if beside and draw.random() < 0.25:
            task.note(example, beside[:1], "", memory=known if draw.random() < 0.5 else "")


def validation_task(backbone: Tokenizer, examples: Sequence[Example]) -> Task:
    """Return the questions of some examples, each over its gold paragraphs and the first two others."""
    task = _Draft(backbone)
    for example in examples:
        gold = [p.text for p in example.paragraphs if p.supporting]
        rest = [p.text for p in example.paragraphs if not p.supporting]
        task.ask(example, [task.chunk(text) for text in [*gold, *rest[:2]]])
    return task.done()


def evidence(text: str, example: Example) -> str:
    """Return the sentence of a paragraph that an answer rests on: one that holds it and is nearest to the question."""
    holding = [sentence for sentence in grounding.sentences(text) if example.answers[0] in sentence]
    return grounding.closest_sentences("\n\n".join(holding) or text, f"{example.question} {example.answers[0]}")


class _Draft:
    """A task while it is put together."""

    def __init__(self, backbone: Tokenizer) -> None:
        self._backbone = backbone
        self._chunks: list[tuple[int, ...]] = []
        self._queries: list[Query] = []
        self.size = 0

    def chunk(self, text: str) -> int:
        ids = tuple(self._backbone.encode(text)[:MAX_CHUNK])
        self._chunks.append(ids)
        self.size += len(ids)
        return len(self._chunks) - 1

    def ask(self, example: Example, places: Sequence[int], *, memory: str = "") -> None:
        """Ask for the answer from chunks and notes."""
        prompt = prompts.trained_answer(example.question, memory)
        self._add(prompt, example.answers[0], MAX_ANSWER, places, "answer")

    def refuse(self, example: Example, places: Sequence[int]) -> None:
        """Ask a question that the chunks do not answer."""
        self._add(prompts.trained_answer(example.question), prompts.NOT_FOUND, MAX_ANSWER, places, "refuse")

    def note(self, example: Example, places: Sequence[int], note: str, *, memory: str = "") -> None:
        """Ask for what the chunks add to the notes; an empty note stands for nothing."""
        prompt = prompts.trained_note(example.question, memory)
        self._add(prompt, note or prompts.NOTHING_NEW, MAX_NOTE, places, "note" if note else "skip")

    def _add(self, prompt: str, reply: str, limit: int, places: Sequence[int], kind: str) -> None:
        encode = self._backbone.encode
        ids = encode(" " + reply)
        # a reply that was cut does not end
        target = [*ids[:limit], self._backbone.end_id] if len(ids) <= limit else ids[:limit]
        self._queries.append(Query(tuple(places), tuple(encode(prompt)), tuple(target), kind))

    def spans(self, place: int, count: int, draw: random.Random) -> None:
        ids = self._chunks[place]
        length = SPAN_CUE + SPAN_TARGET
        lead = self._backbone.encode(prompts.reconstruct_lead())
        if len(ids) < length:
            return
        for _ in range(count):
            start = draw.randrange(len(ids) - length + 1)
            cue = (*lead, *ids[start : start + SPAN_CUE])
            self._queries.append(Query((place,), cue, ids[start + SPAN_CUE : start + length], "span"))

    def done(self) -> Task:
        return Task(tuple(self._chunks), tuple(self._queries))
