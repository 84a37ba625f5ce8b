"""From a finished walk to the answer: a reply as it is written, what of it may be shown, and whether it stands."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

from memrecall_kv.config import ReasonerConfig
from memrecall_kv.recall import grounding, prompts
from memrecall_kv.recall.kind_asked import is_of_kind_asked
from memrecall_kv.recall.loop import Walk
from memrecall_kv.recall.quotes import quotes_of
from memrecall_kv.recall.spans import settled
from memrecall_kv.types import Answer, Event, Token, Trace, Usage, Writer

_HELD_BACK = 24
"""Characters of a reply that are looked at before the first is shown."""


class Reply:
    """Answers a walk's question; an answer that is not found costs one more look.

    Args:
        walk: To its end.
        config: Whether an ungrounded answer is refused, and what a refusal says.
        write: Writes instead of the reasoner.

    Attributes:
        text: The answer's text, once `events` has ended.
        found: Whether it is one.
        grounded: Whether the opened texts hold its words.
    """

    def __init__(self, walk: Walk, config: ReasonerConfig, write: Writer | None) -> None:
        self._walk, self._config, self._write = walk, config, write
        self._strict = config.readback == "verify"
        self.text = config.not_found
        self.found = self.grounded = False

    def events(self) -> Iterator[Event]:
        """Yield the answer's text piece by piece; without a block that the gate believes in there is none."""
        reply, shown = "", ""
        if self._walk.has_found:
            reply, shown = yield from self._attempt()
            if not self._judge(reply) and not shown:
                looked = len(self._walk.recalls)
                yield from self._walk.look_again()
                if len(self._walk.recalls) > looked:
                    reply, shown = yield from self._attempt()
                    self._judge(reply)
        if self.found or shown:
            self.text = reply
        if self.text != shown:
            yield Token(self.text[len(shown) :])

    def _attempt(self) -> Generator[Event, None, tuple[str, str]]:
        """Yield the pieces of a reply; return it and what of it was shown.

        A start that says "nothing" is held back, and so is everything while an ungrounded answer may be refused. A
        reply of another kind than was asked for, or far from the question, makes place for the likeliest other span.
        """
        reply = shown = ""
        for piece in self._pieces():
            reply = (reply + piece).lstrip()
            if not self._strict and len(reply) > _HELD_BACK and not prompts.is_nothing(reply[:_HELD_BACK]):
                ready = reply.rstrip()
                yield Token(ready[len(shown) :])
                shown = ready
        if not shown and self._write is None:
            reply = settled(self._walk.question, reply, self._texts, lambda spans: "".join(self._pieces(spans)))
        return reply.strip(), shown

    def _judge(self, reply: str) -> bool:
        """Return whether a reply says something that may be said; keep the verdict."""
        grounded = grounding.is_grounded(reply, self._texts, self._walk.question)
        says_something = not prompts.is_nothing(reply) and is_of_kind_asked(self._walk.question, reply)
        self.found = says_something and (grounded or not self._strict)
        self.grounded = self.found and grounded
        return self.found

    @property
    def _texts(self) -> list[str]:
        return [recall.chunk.read_text for recall in self._walk.recalls]

    def _pieces(self, among: Sequence[str] = ()) -> Iterator[str]:
        walk = self._walk
        if self._write is not None:
            return walk.stages.each("answer", self._write(walk.question, walk.notes, walk.recalls))
        return walk.scheduler.each(walk.stages.each("answer", self._written(among)))

    def _written(self, among: Sequence[str]) -> Iterator[str]:
        walk = self._walk
        blocks = walk.blocks.read([recall.chunk for recall in walk.recalls])
        yield from walk.reasoner.answer(walk.question, walk.notes, walk.recalls, blocks, walk.tally, among)


def answered(walk: Walk, text: str, *, found: bool, grounded: bool) -> Answer:
    """Return a text as the answer to a walk's question, with all that led to it."""
    quotes = quotes_of(text, walk.question, walk.recalls) if found else ()
    trace = Trace(tuple(walk.steps), walk.relevance.looks, walk.question, walk.gate.threshold)
    return Answer(text, tuple(walk.recalls), found, grounded, walk.notes, trace, _usage(walk), quotes)


def _usage(walk: Walk) -> Usage:
    return Usage(
        blocks_total=walk.relevance.total,
        blocks_scored=walk.relevance.scored,
        blocks_opened=len(walk.recalls),
        memory_tokens_read=walk.tally.memory_tokens,
        prompt_tokens=walk.tally.prompt_tokens,
        generated_tokens=walk.tally.generated_tokens,
        bytes_per_source_token=walk.bank.bytes_per_source_token,
        seconds=time.perf_counter() - walk.started,
        stages=walk.stages.taken,
    )
