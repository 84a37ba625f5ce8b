"""What the page of an answer shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from memrecall_kv.filters import AmongIds
from memrecall_kv.ingest.places import place_of
from memrecall_kv.report.marking import marked
from memrecall_kv.report.page import render
from memrecall_kv.types import Answer, Chunk, Document, Note, Quote, Recall, Step, Texts

_PASSAGES = 24
"""Opened chunks whose texts are shown, and of which it is shown what was known after them."""
_SPAN = 4_000
"""Characters of such a text."""
_SEARCHED = 100_000
"""Characters of it in which the answer is looked for."""
_AROUND = 240
"""Characters before and after it."""
_STRIPS = 40
"""Documents whose chunks are drawn."""
_CELLS = 60
"""Chunks of one that are drawn."""
_LOOKS = 8
"""States of the notes, the latest, under which probabilities are shown."""
_CLAIMS = 40
_REFUSED = 24
_NUMBERED = 200
"""Chunks in the table of all numbers."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, and whether the answer says it."""

    text: str
    is_said: bool


@dataclass(frozen=True, slots=True)
class Passage:
    """An opened chunk in the text it is a span of."""

    recall: Recall
    step: Step
    place: str
    before: str
    pieces: list[Piece]
    after: str
    left_out: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A chunk: its probability in each look, `None` where it was not judged, and when it was opened, from 1."""

    index: int
    looks: list[float | None]
    opened: int | None

    @property
    def last(self) -> float:
        """Return the probability of the last look at it."""
        return next(each for each in reversed(self.looks) if each is not None)

    @property
    def highest(self) -> float:
        """Return the highest probability of all looks at it."""
        return max(each for each in self.looks if each is not None)


@dataclass(frozen=True, slots=True)
class Strip:
    """A document's chunks that were judged, in order, with the numbers of those between that were not."""

    doc_id: str
    cells: list[Cell | int]
    left_out: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A chunk that was judged and not opened, and its text if it is known."""

    doc_id: str
    cell: Cell
    chunk: Chunk | None


class View:
    """An answer as its page shows it.

    Args:
        answer: What was answered.
        bank: Where the texts are that the answer does not hold; `None` leaves them out.
    """

    def __init__(self, answer: Answer, bank: Texts | None) -> None:
        self.answer = answer
        looks = answer.trace.looks or _rounds(answer.trace.steps)
        self.first_look = max(0, len(looks) - _LOOKS)
        self.looks = looks[self.first_look :]
        self._opened = {recall.chunk.id: number for number, recall in enumerate(answer.evidence, 1)}
        cells = self._cells()
        self.documents = len(cells)
        self._drawn = dict(sorted(cells.items(), key=_first_to_show)[:_STRIPS])
        self._documents = _Documents(bank)
        closest = [
            (doc_id, cell) for doc_id, its in self._drawn.items() for cell in its.values() if cell.opened is None
        ]
        closest.sort(key=lambda found: -found[1].highest)
        self.refused = len({chunk_id for look in self.looks for chunk_id in look} - set(self._opened))
        self._closest = closest[:_REFUSED]
        self._chunks = self._documents.chunks([*self._drawn])

    @cached_property
    def passages(self) -> list[Passage]:
        """Return the opened chunks with their texts, in the order they were opened."""
        opened = [step for step in self.answer.trace.steps if step.opened]
        pairs = zip(self.answer.evidence[:_PASSAGES], opened, strict=False)
        return [self._passage(recall, step) for recall, step in pairs]

    @cached_property
    def strips(self) -> list[Strip]:
        """Return the documents that were looked at: those of opened chunks first, then the most probable ones."""
        return [
            Strip(doc_id, list(_with_gaps(its, len(self._chunks.get(doc_id, ())))), max(0, len(its) - _CELLS))
            for doc_id, its in self._drawn.items()
        ]

    @cached_property
    def refusals(self) -> list[Refusal]:
        """Return what came closest to being opened, the closest first."""
        return [Refusal(doc_id, cell, self._chunk(doc_id, cell.index)) for doc_id, cell in self._closest]

    @property
    def claims(self) -> list[tuple[Quote, int | None]]:
        """Return what each claim of the answer rests on, and the number of the text it is in, if that is shown."""
        shown = {chunk_id: number for chunk_id, number in self._opened.items() if number <= _PASSAGES}
        return [(quote, shown.get(quote.chunk_id)) for quote in self.answer.quotes[:_CLAIMS]]

    @property
    def numbers(self) -> list[tuple[str, Cell]]:
        """Return the chunks of the strips with all their numbers."""
        cells = [(doc_id, cell) for doc_id, its in self._drawn.items() for cell in its.values()]
        return cells[:_NUMBERED]

    @property
    def notes_by_step(self) -> dict[int, Sequence[Note]]:
        """Return the working memory after each opening, by its place among them; those that added nothing left out."""
        opened = [step for step in self.answer.trace.steps if step.opened]
        return {place: step.memory.notes for place, step in enumerate(opened[:_PASSAGES]) if step.memory.notes}

    def _cells(self) -> dict[str, dict[int, Cell]]:
        found: dict[str, dict[int, Cell]] = {}
        for chunk_id in dict.fromkeys(chunk_id for look in self.looks for chunk_id in look):
            doc_id, _, index = chunk_id.rpartition("#")
            looks = [look.get(chunk_id) for look in self.looks]
            found.setdefault(doc_id, {})[int(index)] = Cell(int(index), looks, self._opened.get(chunk_id))
        return {doc_id: dict(sorted(its.items())) for doc_id, its in found.items()}

    def _passage(self, recall: Recall, step: Step) -> Passage:
        chunk, text = recall.chunk, recall.chunk.text
        said = self.answer.text if self.answer.found else ""
        first, _ = next(marked(text[:_SEARCHED], said), (0, 0)) if len(text) > _SPAN else (0, 0)
        start = max(0, first - _SPAN // 4)
        end = min(len(text), start + _SPAN)
        document = self._documents.of(chunk)
        before = _end_of(document.text[: chunk.start]) if document and start == 0 else ""
        after = _start_of(document.text[chunk.end :]) if document and end == len(text) else ""
        place = place_of(recall.metadata, chunk.start, chunk.end)
        pieces = list(_pieces(text[start:end].strip("\n"), said))
        return Passage(recall, step, place, before, pieces, after, len(text) - (end - start))

    def _chunk(self, doc_id: str, index: int) -> Chunk | None:
        return self._chunks.get(doc_id, {}).get(index)


class _Documents:
    """The texts of a bank, as far as there is one and it still holds them."""

    def __init__(self, bank: Texts | None) -> None:
        self._bank = bank
        self._read: dict[str, Document] = {}

    def of(self, chunk: Chunk) -> Document | None:
        """Return the document of a chunk, if it still says there what the chunk says."""
        if self._bank is None or chunk.doc_id not in self._bank:
            return None
        if chunk.doc_id not in self._read:
            self._read[chunk.doc_id] = self._bank.document(chunk.doc_id)
        document = self._read[chunk.doc_id]
        return document if document.text[chunk.start : chunk.end] == chunk.text else None

    def chunks(self, doc_ids: Sequence[str]) -> dict[str, dict[int, Chunk]]:
        """Return the chunks of documents, by their places in them."""
        found: dict[str, dict[int, Chunk]] = {}
        for chunk in self._bank.chunks(AmongIds(frozenset(doc_ids))) if self._bank is not None else ():
            found.setdefault(chunk.doc_id, {})[chunk.index] = chunk
        return found


def answer_page(answer: Answer, bank: Texts | None = None) -> str:
    """Return the page of an answer; see `Answer.to_html`."""
    view = View(answer, bank)
    return render("answer.html", view=view, answer=answer, usage=answer.usage, threshold=answer.trace.threshold)


def _rounds(steps: Sequence[Step]) -> tuple[Mapping[str, float], ...]:
    """Return what was decided in each round, for an answer that kept no looks."""
    found: dict[int, dict[str, float]] = {}
    for step in steps:
        found.setdefault(step.round, {})[step.chunk_id] = step.gate_probability
    return tuple(found.values())


def _first_to_show(item: tuple[str, Mapping[int, Cell]]) -> tuple[float, float]:
    opened = [cell.opened for cell in item[1].values() if cell.opened is not None]
    return min(opened, default=float("inf")), -max(cell.highest for cell in item[1].values())


def _with_gaps(cells: Mapping[int, Cell], total: int) -> Iterator[Cell | int]:
    """Yield cells, those that were opened before others if there are too many, and how many stand between two."""
    kept = sorted(sorted(cells, key=lambda index: (cells[index].opened is None, -cells[index].highest))[:_CELLS])
    ends = [-1, *kept, max(total, kept[-1] + 1)]
    for before, index in pairwise(ends):
        if index - before > 1:
            yield index - before - 1
        if index in cells:
            yield cells[index]


def _end_of(text: str) -> str:
    """Return the last words of a text."""
    return text.strip() if len(text) <= _AROUND else f"… {text[-_AROUND:].partition(' ')[2].rstrip()}"


def _start_of(text: str) -> str:
    """Return the first words of a text."""
    return text.strip() if len(text) <= _AROUND else f"{text[:_AROUND].rpartition(' ')[0].lstrip()} …"


def _pieces(text: str, said: str) -> Iterator[Piece]:
    """Yield a text, cut where what is said begins and ends."""
    at = 0
    for start, end in marked(text, said):
        if start > at:
            yield Piece(text[at:start], is_said=False)
        yield Piece(text[start:end], is_said=True)
        at = end
    if at < len(text):
        yield Piece(text[at:], is_said=False)
