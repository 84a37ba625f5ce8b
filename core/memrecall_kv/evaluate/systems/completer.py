"""The backbone as it is, writing what it is asked to, for one question or for many side by side."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.decoding import replies
from memrecall_kv.evaluate.systems.system import Reply
from memrecall_kv.recall.reasoner import Tally


@dataclass(frozen=True, slots=True)
class Request:
    """One user turn.

    Attributes:
        text: What is asked for.
        limit: Tokens of the reply at most.
        tally: Counts what is read and written.
    """

    text: str
    limit: int
    tally: Tally


Steps = Generator[Request, str, Reply]
"""The way to an answer: yields a request, is sent what was written, and returns the answer."""


class Completer:
    """Follows requests in the backbone's chat form, greedily.

    Args:
        backbone: The model.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def answer(self, started: Sequence[Steps]) -> list[Reply]:
        """Go all ways to their ends, side by side: every step is one batch of what is asked for at the time.

        Raises:
            ContextOverflowError: If a request does not fit the window.
        """
        ends: dict[int, Reply] = {}
        waiting = {number: next(steps) for number, steps in enumerate(started)}
        while waiting:
            written = self.write(list(waiting.values()))
            for number, text in zip(list(waiting), written, strict=True):
                try:
                    waiting[number] = started[number].send(text)
                except StopIteration as end:
                    ends[number] = end.value
                    del waiting[number]
        return [ends[number] for number in range(len(started))]

    def write(self, requests: Sequence[Request]) -> list[str]:
        """Return the replies, written side by side.

        Raises:
            ContextOverflowError: If a request does not fit the window.
        """
        return self._backbone.scheduler.call(lambda: self._write(requests))

    def _write(self, requests: Sequence[Request]) -> list[str]:
        prompts = [self._backbone.chat(request.text) for request in requests]
        # the sink in front of the prompt, not placed before it: nothing to mask, and half the time of a long prompt
        state, read = self._backbone.kv.start(len(prompts)), [[self._backbone.sink_id, *prompt] for prompt in prompts]
        longest = max(request.limit for request in requests)
        written = replies(self._backbone, state, read, longest)
        written = [ids[: request.limit] for ids, request in zip(written, requests, strict=True)]
        for prompt, ids, request in zip(prompts, written, requests, strict=True):
            request.tally.prompt_tokens += len(prompt)
            request.tally.generated_tokens += len(ids)
        return [self._backbone.decode(ids).strip() for ids in written]
