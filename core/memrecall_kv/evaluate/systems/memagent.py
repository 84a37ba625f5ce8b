"""MemAgent's loop: a text memory that is rewritten after every chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from pydantic import Field

from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.evaluate.systems.chunk_reading import WindowConfig, WindowReader
from memrecall_kv.evaluate.systems.completer import Completer, Request, Steps
from memrecall_kv.evaluate.systems.reader import Reader
from memrecall_kv.evaluate.systems.system import Reply
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.types import Chunk, WorkingMemory

_CUE = "the answer is"
"""What the final reply announces its answer with; the last one counts, as published."""


class LoopConfig(WindowConfig):
    """How much is read and written at once.

    Attributes:
        memory_tokens: Tokens of the memory at most; 1,024 is MemAgent's.
        answer_tokens: Tokens of the answer at most.
    """

    memory_tokens: int = Field(default=1024, ge=8)
    answer_tokens: int = Field(default=64, ge=1)


class MemAgentLoop(WindowReader):
    """Rewrites a text memory after every chunk and answers from the memory alone.

    Source:
        MemAgent, arXiv:2507.02259, the recurrent workflow. Deviations: our own wording of the requests; greedy
        instead of temperature 0.7; a request that fails counts as a wrong answer.

    Args:
        memory: Whose backbone reads and writes, without any trained part.
        config: Sizes of chunk and memory.
        completer: Reads and writes instead of the backbone, which then only cuts chunks.
    """

    def __init__(self, memory: MemRecall, config: LoopConfig, completer: Completer | None = None) -> None:
        super().__init__(memory, config, None if completer else 2 * config.memory_tokens)
        self._config = config
        self._completer = completer or Completer(memory.backbone)

    def answer(self, question: str) -> Reply:
        """Run the loop; see `System`."""
        (reply,) = self.answer_together([self.start(question)])
        return reply

    def start(self, question: str) -> Steps:
        """Begin the loop; see `Interleaved`."""
        # the documents of now: others may be prepared before the first step is taken
        return self._steps(question, self._chunks(self._documents))

    def answer_together(self, started: Sequence[Steps]) -> list[Reply]:
        """Run loops side by side; see `Interleaved`."""
        return self._completer.answer(started)

    def _steps(self, question: str, chunks: Iterable[Chunk]) -> Steps:
        tally = Tally()
        known = "No previous memory"
        for chunk in chunks:
            reply = yield Request(_update(question, known, chunk.text), self._config.memory_tokens, tally)
            known = reply.rpartition("</think>")[2].strip()
        final = yield Request(_final(question, known), self._config.answer_tokens, tally)
        cue = final.lower().rfind(_CUE)
        text = (final[cue + len(_CUE) :] if cue >= 0 else final).strip(" :\n")
        return Reply(text, bool(text), tokens_read=tally.prompt_tokens, tokens_written=tally.generated_tokens)


class NoteLoop(WindowReader):
    """MemAgent's loop with the pipeline's reasoner: it reads each chunk uncompressed and adds its note.

    Args:
        memory: Whose reasoner answers, with readback on: notes of chunks beyond its budget are what it reads.
        noter: Whose reasoner takes notes, with readback off.
        config: Size of a chunk.
    """

    def __init__(self, memory: MemRecall, noter: MemRecall, config: WindowConfig) -> None:
        super().__init__(memory, config, 2 * memory.config.reasoner.max_memory_tokens)
        self._backbone = memory.backbone
        self._noter = noter.parts.reasoner
        self._reader = Reader(memory)

    def answer(self, question: str) -> Reply:
        """Run the loop; see `System`."""
        tally = Tally()
        known = WorkingMemory()
        noted: dict[str, Chunk] = {}
        for chunk in self._chunks(self._documents):
            after = self._backbone.scheduler.call(partial(self._note, question, known, chunk, tally))
            if after is not known:
                # too long to be read back: what is left of the chunk is its note
                noted[chunk.id] = Chunk(chunk.doc_id, chunk.index, 0, 0, "", self._backbone.window)
            known = after
        kept = [noted[note.chunk_id] for note in known.notes]
        reply = self._reader.answer(question, kept, tally, known.notes)
        return replace(reply, evidence=None, ranked=())

    def _note(self, question: str, known: WorkingMemory, chunk: Chunk, tally: Tally) -> WorkingMemory:
        ids = self._backbone.encode(chunk.text)
        (block,) = whole_blocks(self._backbone.kv.prefill([ids]), [ids])
        return self._noter.update(question, known, chunk, block, tally)


def _update(question: str, memory: str, section: str) -> str:
    return (
        "You read a long text in sections and keep a memory of what helps with a problem. Read the next section, "
        "which may be of no use, and write the memory anew: keep what matters from the previous memory, add what the "
        f"section contributes.\n\n<problem>{question}</problem>\n\n<memory>{memory}</memory>\n\n"
        f"<section>{section}</section>\n\nUpdated memory:"
    )


def _final(question: str, memory: str) -> str:
    return (
        'Solve the problem with the memory of the text that was read, and end with "the answer is" and the answer.'
        f"\n\n<problem>{question}</problem>\n\n<memory>{memory}</memory>\n\nYour answer:"
    )
