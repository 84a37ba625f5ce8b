"""A session: questions one after the other to a model that is loaded once, typed or piped line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memrecall_kv.cli import show
from memrecall_kv.errors import InputError, MemRecallError
from memrecall_kv.types import Answer

if TYPE_CHECKING:  # all three import torch, which takes seconds
    from memrecall_kv.bank.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall
    from memrecall_kv.recall.follow_up import Turn

_PROMPT = "Q: "
_ENDS = frozenset({"exit", "quit"})
_REMEMBERED = 1000
"""Lines of a history file that the arrow keys reach."""


@dataclass
class Session:
    """Answers questions, each of which may refer to those before it.

    Args:
        memory: The loaded pipeline.
        bank: Open for reading.
        top_k: As in `MemRecall.stream`.
        as_json: Print JSON, one object a question.
        typed: Whether somebody types: then Ctrl-C stops an answer, and no answer is no failure.
        trace: As in `show.tell`.

    Attributes:
        asked: Questions so far.
        not_found: How many of them the bank does not answer.
        failed: How many of them could not be asked.
    """

    memory: MemRecall
    bank: MemoryBank
    top_k: int | None
    as_json: bool
    typed: bool
    trace: bool = False
    asked: int = 0
    not_found: int = 0
    failed: int = 0
    _turns: list[Turn] = field(default_factory=list)

    def run(self, lines: Iterator[str]) -> int:
        """Answer every line until the end or `exit`, and return the exit code.

        Raises:
            InputError: If nobody types and there is no question.
        """
        for line in lines:
            question = line.strip()
            if question.lower() in _ENDS:
                break
            if question:
                self._take(question)
        if self.typed:
            return 0
        if not self.asked:
            raise InputError(
                "Expected a question, got none.", "Give it after the bank, or on standard input, one a line."
            )
        return 2 if self.failed else int(self.not_found > 0)

    def _take(self, question: str) -> None:
        self.asked += 1
        try:
            answer = self._answer(question)
        except KeyboardInterrupt:
            if not self.typed:
                raise
            typer.echo("\nStopped.", err=True)
        except MemRecallError as error:
            self.failed += 1
            show.complain(error)
        else:
            self.not_found += not answer.found

    def _answer(self, question: str) -> Answer:
        from memrecall_kv.recall.follow_up import Turn, stand_alone

        with show.status("Reading the question"):
            asked = stand_alone(self.memory.backbone, question, self._turns)
        with closing(self.memory.stream(self.bank, asked, top_k=self.top_k)) as events:
            answer = show.tell(
                question, events, as_json=self.as_json, heading=not self.typed, asked=asked, trace=self.trace
            )
        self._turns.append(Turn(asked, answer.text if answer.found else ""))
        return answer


def typed_lines(history: Path | None) -> Iterator[str]:
    """Yield what somebody types, until Ctrl-D; Ctrl-C begins the line anew.

    Arrow keys edit a line and bring back earlier ones, where Python has `readline`.

    Args:
        history: File that earlier lines are read from and new ones are added to; nothing is kept if `None`.

    Raises:
        InputError: If the file cannot be read or written.
    """
    _bring_back(history)
    while True:
        try:
            line = _line()
        except KeyboardInterrupt:
            typer.echo("\nCtrl-D or exit ends the session.", err=True)
            continue
        except EOFError:
            typer.echo(err=True)
            return
        if line.strip():
            _keep(history, line)
        yield line


def piped_lines() -> Iterator[str]:
    """Yield the lines of standard input as they come."""
    yield from iter(sys.stdin.readline, "")


def _line() -> str:
    if sys.stdout.isatty():
        return input(_PROMPT)
    # the answers go to a file or a pipe, and the prompt is none of them
    typer.echo(_PROMPT, err=True, nl=False)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _bring_back(history: Path | None) -> None:
    with suppress(ImportError):  # not on Windows
        import readline

        readline.clear_history()
        if history is not None and history.exists():
            try:
                earlier = history.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError as error:
                raise _unusable(history, error) from error
            for line in earlier[-_REMEMBERED:]:
                readline.add_history(line)


def _keep(history: Path | None, line: str) -> None:
    if history is None:
        return
    try:
        if not history.exists():
            history.touch(mode=0o600)  # what somebody asks is nobody else's business
        with history.open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"{line.strip()}\n")
    except OSError as error:
        raise _unusable(history, error) from error


def _unusable(history: Path, error: OSError) -> InputError:
    return InputError(f"{history}: expected a file for the history, got: {error.strerror}.", "Name another one.")
