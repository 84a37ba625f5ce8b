"""Reads opened blocks into a short working memory, and answers from it.

Source: LycheeMemory, arXiv:2602.08382, the reasoner. Deviations:

1. Working memory is a list of notes, each with the chunk it came from; `memory="rewrite"` is the paper's.
2. Names and numbers suffer most from compression, so original text is read again (`readback`): a note is
   sentences of the chunk nearest to what was read from the block, and the answer reads the opened
   chunks. `readback="off"` is the paper's.
3. No evidence, or an answer that says so, is an explicit not-found.
4. Original text is read behind the chunk's heading; a note begins with those lines of it that share a word with what
   is asked or known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from memrecall_kv.backbone import decoding
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import KVState, whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.config import ReasonerConfig
from memrecall_kv.errors import ConfigError
from memrecall_kv.recall import grounding, prompts
from memrecall_kv.types import Chunk, MemoryBlock, Note, Recall, WorkingMemory

_NOTED_SENTENCES = 2
"""Sentences of a block's text that a tuned reasoner notes."""


@dataclass(slots=True)
class Tally:
    """Tokens a reasoner read and wrote; the pipeline hands one in per question."""

    memory_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


class Reasoner(Protocol):
    """What the pipeline needs of a reasoner."""

    def update(
        self, question: str, notes: WorkingMemory, chunk: Chunk, block: MemoryBlock, tally: Tally
    ) -> WorkingMemory:
        """Read a block and return the working memory after it; the same object if nothing was new.

        Not in a turn of the backbone's: what runs it asks for turns.
        """
        ...

    def answer(
        self,
        question: str,
        notes: WorkingMemory,
        evidence: Sequence[Recall],
        blocks: Sequence[MemoryBlock],
        tally: Tally,
        among: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answer's text piece by piece, each in a turn of the backbone's.

        Args:
            question: The question.
            notes: What was noted.
            evidence: The opened chunks.
            blocks: Their blocks, in the same order.
            tally: Counts what is read and written.
            among: If there are any, the answer is one of them.
        """
        ...


class BackboneReasoner:
    """The backbone itself writes notes and answers, greedily.

    Args:
        backbone: The model.
        config: Lengths and modes.
        unrotated: Read blocks with keys left un-rotated.
    """

    def __init__(self, backbone: Backbone, config: ReasonerConfig, *, unrotated: bool = False) -> None:
        self._backbone = backbone
        self._config = config
        self._unrotated = unrotated
        self._rows = decoding.Rows(backbone)

    def update(
        self, question: str, notes: WorkingMemory, chunk: Chunk, block: MemoryBlock, tally: Tally
    ) -> WorkingMemory:
        """Read a block and return the working memory after it; see `Reasoner`.

        Raises:
            ContextOverflowError: If block, notes and question do not fit the window.
        """
        rewriting = self._config.memory == "rewrite"
        reply = "".join(self._backbone.scheduler.each(self._reply(question, notes, block, tally)))
        text = " ".join(reply.split())
        if prompts.is_nothing(text):
            return notes
        if not rewriting and self._config.readback != "off":
            text = _sentences(chunk, f"{question} {text}", 1)
        return self._noted(notes, chunk, text, rewriting=rewriting)

    def _reply(self, question: str, notes: WorkingMemory, block: MemoryBlock, tally: Tally) -> Iterator[str]:
        """Yield what the backbone says of a block, piece by piece."""
        request = self._backbone.encode(self._note_prompt(question, notes))
        state = self._backbone.kv.place([[block]], unrotated=self._unrotated)
        tally.memory_tokens += block.num_memory_tokens
        yield from self._write(state, request, self._config.max_note_tokens, tally)

    def _noted(self, notes: WorkingMemory, chunk: Chunk, text: str, *, rewriting: bool = False) -> WorkingMemory:
        """Return the notes with a note, or as they are if the note is empty or known."""
        if not text or text in {note.text for note in notes.notes}:
            return notes
        note = Note(text, chunk.id)
        return self._fit(WorkingMemory((note,) if rewriting else (*notes.notes, note)))

    def answer(
        self,
        question: str,
        notes: WorkingMemory,
        evidence: Sequence[Recall],
        blocks: Sequence[MemoryBlock],
        tally: Tally,
        among: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answer's text piece by piece; see `Reasoner`.

        Raises:
            ContextOverflowError: If notes, texts and question do not fit the window.
        """
        texts = (
            [] if self._config.readback == "off" else [recall.chunk.read_text for recall in self._readback(evidence)]
        )
        request = self._backbone.chat(prompts.answer(question, notes.text, texts))
        state = self._backbone.kv.place([[]])
        yield from self._write(state, request, self._config.max_answer_tokens, tally, self._pick(among))

    def _note_prompt(self, question: str, notes: WorkingMemory) -> str:
        ask = prompts.rewrite if self._config.memory == "rewrite" else prompts.note
        return ask(question, notes.text)

    def _readback(self, evidence: Sequence[Recall]) -> list[Recall]:
        """Return the most probable chunks that fit the budget, the best nearest to the question."""
        left = self._config.max_readback_tokens
        kept = []
        for recall in sorted(evidence, key=lambda recall: (-recall.gate_probability, recall.step)):
            if recall.chunk.num_tokens <= left:
                left -= recall.chunk.num_tokens
                kept.append(recall)
        return kept[::-1]

    def _pick(self, among: Sequence[str]) -> decoding.Pick | None:
        """Return how an answer's tokens are picked; `None`: greedily."""
        encoded = (self._backbone.encode(f" {text}") for text in among)
        return decoding.among(self._backbone, encoded) if among else None

    def _write(
        self, state: KVState, prompt: list[int], limit: int, tally: Tally, pick: decoding.Pick | None = None
    ) -> Iterator[str]:
        """Read a prompt and yield one line of reply as it grows; characters of several tokens come whole.

        A piece is empty where others are to have their turn: before the prompt is read, so that they add theirs, and
        after a token in the midst of a character.
        """
        tally.prompt_tokens += len(prompt)
        with closing(self._rows.write(state, prompt, limit, pick)) as tokens:

            def counted() -> Iterator[int]:
                for token in tokens:
                    if token is not None:
                        tally.generated_tokens += 1
                        yield token

            next(tokens)
            yield ""
            said = ""
            for text in decoding.growing_text(self._backbone, counted(), one_line=True, every_token=True):
                yield text[len(said) :]
                said = text

    def _fit(self, notes: WorkingMemory) -> WorkingMemory:
        """Drop the oldest notes until they fit; cut a single note that does not."""
        kept = list(notes.notes)
        encode = self._backbone.encode
        while len(kept) > 1 and len(encode(WorkingMemory(tuple(kept)).text)) > self._config.max_memory_tokens:
            kept.pop(0)
        ids = encode(kept[0].text)
        if len(kept) == 1 and len(ids) > self._config.max_memory_tokens:
            kept[0] = Note(self._backbone.decode(ids[: self._config.max_memory_tokens]), kept[0].chunk_id)
        return WorkingMemory(tuple(kept))


class TunedReasoner(BackboneReasoner):
    """A reasoner with deltas that were trained to read blocks: it notes and answers in the form it has learned.

    Args:
        backbone: The model.
        config: Lengths and modes.
        adapter: Deltas that are on while it reads and writes.
        unrotated: Read blocks with keys left un-rotated.

    Raises:
        ConfigError: If the settings ask for a memory it was not trained for.
    """

    def __init__(
        self, backbone: Backbone, config: ReasonerConfig, adapter: LoraAdapter, *, unrotated: bool = False
    ) -> None:
        super().__init__(backbone, config, unrotated=unrotated)
        if config.memory != "append":
            raise ConfigError(
                f"A tuned reasoner keeps a list of notes, got memory={config.memory!r}.",
                "Use memory='append', or kind='zero_shot'.",
            )
        self.adapter = adapter.to(backbone.device, backbone.dtype)
        self._rows = decoding.Rows(backbone, partial(self.adapter.active, backbone.model))

    def update(
        self, question: str, notes: WorkingMemory, chunk: Chunk, block: MemoryBlock, tally: Tally
    ) -> WorkingMemory:
        """Note a block; see `Reasoner`.

        With readback the sentences nearest to the question are noted and nothing is generated: that the block
        matters was the gate's decision, and the answer reads the whole text. What comes next is mostly named by the
        newest note; older ones keep one sentence, so that the gate, which reads the end of the notes, sees them all.
        """
        if self._config.readback == "off":
            return super().update(question, notes, chunk, block, tally)
        text = _sentences(chunk, f"{question} {notes.text}", _NOTED_SENTENCES)
        noted = self._noted(notes, chunk, text)
        if noted is notes:
            return notes
        *older, newest = noted.notes
        brief = (Note(grounding.closest_sentences(note.text, question), note.chunk_id) for note in older)
        return WorkingMemory((*brief, newest))

    def answer(
        self,
        question: str,
        notes: WorkingMemory,
        evidence: Sequence[Recall],
        blocks: Sequence[MemoryBlock],
        tally: Tally,
        among: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answer's text piece by piece; see `Reasoner`.

        What did not fit is left to its note.

        Raises:
            ContextOverflowError: If notes, texts and question do not fit the window.
        """
        if self._config.readback == "off":
            state = self._backbone.kv.place([list(blocks)], unrotated=self._unrotated)
            tally.memory_tokens += sum(block.num_memory_tokens for block in blocks)
            request = self._backbone.encode(prompts.trained_answer(question))
        else:
            state, request = self._texts(question, notes, evidence, tally)
        yield from self._write(state, request, self._config.max_answer_tokens, tally, self._pick(among))

    def _texts(
        self, question: str, notes: WorkingMemory, evidence: Sequence[Recall], tally: Tally
    ) -> tuple[KVState, list[int]]:
        """Return what is read before the request, and the request; it holds the texts if they are read together."""
        kv, encode = self._backbone.kv, self._backbone.encode
        read = self._readback(evidence)
        left = {recall.chunk.id for recall in evidence} - {recall.chunk.id for recall in read}
        known = WorkingMemory(tuple(note for note in notes.notes if note.chunk_id in left)).text
        texts = [prompts.passage(recall.chunk.read_text) for recall in read]
        if self._config.reading == "together":
            # the sink is read with the deltas on, as in training
            asked = encode(prompts.trained_answer(question, known))
            return kv.start(1), [self._backbone.sink_id, *encode(prompts.together(texts)), *asked]
        rows = [encode(text) for text in texts]
        tally.prompt_tokens += sum(map(len, rows))
        with torch.inference_mode():
            state = kv.place([whole_blocks(kv.prefill(rows), rows) if rows else []])
        return state, encode(prompts.trained_answer(question, known))

    def _note_prompt(self, question: str, notes: WorkingMemory) -> str:
        return prompts.trained_note(question, notes.text)

    def _pick(self, among: Sequence[str]) -> decoding.Pick | None:
        if among or not self._config.refusal_bias:
            return super()._pick(among)
        return decoding.leaning(self._backbone.encode(f" {prompts.NOT_FOUND}"), self._config.refusal_bias)


def _sentences(chunk: Chunk, wanted: str, count: int) -> str:
    """Return what of a chunk is noted: its sentences nearest to what is wanted, under the lines of its heading."""
    lines = grounding.shared_lines(chunk.heading.read, wanted)
    return f"{lines} {grounding.closest_sentences(chunk.text, wanted, count)}".lstrip()
