"""What is shown: answers as they are written, citations, progress, errors, JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table
from rich.text import Text

from memrecall_kv.errors import MemRecallError
from memrecall_kv.ingest.places import place_of
from memrecall_kv.recall.grounding import content_words
from memrecall_kv.types import Answer, Done, Event, IngestReport, Opened, Progress, Recall, Token

if TYPE_CHECKING:  # imports torch, which takes seconds
    from memrecall_kv.ingest.sync import Change, SyncReport

_SNIPPET = 160
_HELD_BACK = 40
_LISTED = 20
"""Changes of a kind that are listed after a sync, while a plan lists all; and refused chunks of a trace."""
_UNBOUNDED = 10_000
"""Columns where nobody folds lines."""
_LOG_SECONDS = 10.0
"""Between two lines of progress where no bar can be drawn."""
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), " ")


def tell(
    question: str,
    events: Iterator[Event],
    *,
    as_json: bool,
    heading: bool,
    asked: str | None = None,
    trace: bool = False,
) -> Answer:
    """Follow an answer as it is written and print what it rests on.

    Args:
        question: As somebody put it.
        events: What `MemRecall.stream` yields.
        as_json: Print one JSON object, at the end.
        heading: Print the question first.
        asked: The question as it was asked, where it may have been rewritten.
        trace: Also print what was judged, opened and noted; JSON holds it in any case.
    """
    if as_json:
        answer = next(event.answer for event in events if isinstance(event, Done))
        print_json({"question": question, **({} if asked is None else {"asked": asked}), "answer": answer})
        return answer
    if heading:
        typer.echo(f"\nQ: {safe(question)}")
    if asked is not None and asked != question:
        typer.echo(f"Asked as: {safe(asked)}")
    answer = _follow(events)
    for recalled in answer.evidence:
        typer.echo(cited(recalled, f"{asked or question} {answer.text}"))
    if trace:
        for line in traced(answer):
            typer.echo(safe(line))
    usage = answer.usage
    grounded = "" if answer.grounded or not answer.found else "; not all words of the answer are in the cited text"
    typer.echo(
        f"  {usage.blocks_opened} of {usage.blocks_total} blocks opened, {usage.blocks_scored} times one was scored; "
        f"{usage.seconds:.1f} s{grounded}"
    )
    return answer


def traced(answer: Answer) -> Iterator[str]:
    """Yield what was opened and noted, in order, then what was refused, the closest first, and the stages' times."""
    threshold, opened = answer.trace.threshold, {recall.chunk.id for recall in answer.evidence}
    for step in answer.trace.steps:
        if step.opened:
            yield f"  round {step.round + 1}  {step.gate_probability:.2f}  opened   {step.chunk_id}"
            yield from [f"      noted: {step.note}"] if step.note else []
    highest: dict[str, float] = {}
    for look in answer.trace.looks:
        for chunk_id in look.keys() - opened:
            highest[chunk_id] = max(look[chunk_id], highest.get(chunk_id, 0.0))
    for chunk_id in sorted(highest, key=lambda each: (-highest[each], each))[:_LISTED]:
        away = f"{abs(highest[chunk_id] - threshold):.2f} {'above' if highest[chunk_id] > threshold else 'below'}"
        yield f"           {highest[chunk_id]:.2f}  refused  {chunk_id} ({away} the threshold)"
    if len(highest) > _LISTED:
        yield f"  {len(highest) - _LISTED:,} more refused"
    yield "  " + ", ".join(f"{stage.name} {stage.seconds:.2f} s" for stage in answer.usage.stages)


def _follow(events: Iterator[Event]) -> Answer:
    """Print an answer's text as it comes.

    Its beginning is held back: a reply that says there is no answer is short, and is shown in other words.
    """
    written, shown = "", 0
    with status("Looking through the blocks") as say:
        for event in events:
            if isinstance(event, Opened):
                say(f"Reading {event.recall.chunk.id}")
            elif isinstance(event, Token):
                written += event.text
                if len(written) > _HELD_BACK:
                    say(None)
                    typer.echo(safe(written[shown:]), nl=False)
                    shown = len(written)
            elif isinstance(event, Done):
                say(None)
                rest = written[shown:].rstrip() if event.answer.text == written.strip() else event.answer.text
                typer.echo(safe(rest))
                return event.answer
    raise TypeError("the last event of a stream is Done")


def ingested(report: IngestReport) -> str:
    """Return what an ingestion did, in one line."""
    left = f", {report.chunks_deferred} left for the first question" if report.chunks_deferred else ""
    speed = f" ({report.source_tokens / report.seconds:,.0f} tokens/s)" if report.source_tokens else ""
    return (
        f"Documents: {report.documents_added} added, {report.documents_updated} updated, "
        f"{report.documents_unchanged} unchanged; {report.source_tokens:,} tokens compressed in "
        f"{report.seconds:.1f} s{speed}; {report.chunks_reused} chunks reused{left}."
    )


def synced(report: SyncReport, *, as_json: bool, planned: bool, known: Container[str] = frozenset()) -> None:
    """Print what a sync did or would do, and last what went wrong.

    Args:
        report: From `FolderSync`.
        as_json: Print one JSON object.
        planned: Nothing was done yet: then all changes are listed, else the first of each kind.
        known: Messages of problems that were told before.
    """
    if as_json:
        names = ("id", "action", "reason", "characters")
        changes = [{name: getattr(change, name) for name in names} for change in report.changes]
        problems = [problem.message for problem in report.problems]
        print_json({"planned": planned, "changes": changes, "report": report.ingested, "problems": problems})
    else:
        _list(report, most=len(report.changes) if planned else _LISTED)
        typer.echo(_sum(report, planned=planned))
    for problem in report.problems:
        if problem.message not in known:
            complain(problem)


def _list(report: SyncReport, *, most: int) -> None:
    """Print the changes of each kind, but for documents that stay as they are."""
    kinds: dict[str, list[Change]] = {}
    for change in report.changes:
        kinds.setdefault(change.action, []).append(change)
    kinds.pop("unchanged", None)
    for action, changes in kinds.items():
        for change in changes[:most]:
            typer.echo(safe(f"  {action:<8} {change.id}{f' ({change.reason})' if change.reason else ''}"))
        if len(changes) > most:
            typer.echo(f"  {action:<8} and {len(changes) - most:,} more")


def _sum(report: SyncReport, *, planned: bool) -> str:
    counts = Counter[str](change.action for change in report.changes)
    verbs = {"add": "added", "replace": "replaced", "remove": "removed", "unchanged": "unchanged"}
    done = ", ".join(f"{counts[action]:,} {verb}" for action, verb in verbs.items())
    rest = {"keep": "kept without a look", "skip": "skipped", "fail": "failed"}
    others = "".join(f", {counts[action]:,} {verb}" for action, verb in rest.items() if counts[action])
    if planned:
        characters = sum(change.characters for change in report.changes)
        return f"Documents would be: {done}{others}; at most {characters:,} characters to compress."
    made = report.ingested
    cost = f"{made.source_tokens:,} tokens compressed in {made.seconds:.1f} s; {made.chunks_reused} chunks reused."
    return f"Documents: {done}{others}; {cost}"


def cited(recalled: Recall, wanted: str) -> str:
    """Return a recalled chunk in two lines: where it is from, and the part of it with most of the wanted words."""
    chunk = recalled.chunk
    words = content_words(wanted)
    hits = [match.start() for match in re.finditer(r"\w+", chunk.text) if match[0].lower() in words]
    start = max(hits, key=lambda hit: sum(hit <= other < hit + _SNIPPET for other in hits), default=0)
    start = 0 if start < _SNIPPET // 2 else start
    snippet = " ".join(chunk.text[start : start + _SNIPPET].split())
    dots = ("… " if start else "", " …" if start + _SNIPPET < len(chunk.text) else "")
    place = place_of(recalled.metadata, chunk.start, chunk.end)
    where = f"[{recalled.step + 1}] {chunk.doc_id} characters {chunk.start}-{chunk.end}"
    relevance = f"(relevance {recalled.gate_probability:.2f}){f', {place}' * bool(place)}"
    return safe(f"  {where} {relevance}\n      {dots[0]}{snippet}{dots[1]}")


def safe(text: str) -> str:
    """Return a text without the control characters by which it could steer the terminal."""
    return text.translate(_CONTROLS)


def complain(error: MemRecallError) -> None:
    """Print what is wrong, and what to do about it on a line of its own."""
    label = "Error:" if os.environ.get("NO_COLOR") else typer.style("Error:", fg="red")
    typer.echo(f"{label} {safe(error.message)}\n{safe(error.hint)}", err=True)


def table(name: str, amount: str, rows: Iterable[tuple[str, int | str]]) -> None:
    """Print two columns under their headings, and an empty line; folded to a terminal's width, whole in a pipe."""
    right = Column(amount, justify="right" if amount else "left", overflow="fold")
    grid = Table(Column(name, overflow="fold"), right, box=None, pad_edge=False)
    for left, value in rows:
        grid.add_row(Text(safe(left)), f"{value:,}" if isinstance(value, int) else Text(safe(value)))
    Console(width=None if sys.stdout.isatty() else _UNBOUNDED).print(grid, "")


def print_json(value: Any) -> None:
    """Print a value, data classes as objects, on one line."""
    typer.echo(json.dumps(_jsonable(value), ensure_ascii=False))


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    return [_jsonable(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} tokens/s" if task.speed else "")


@contextmanager
def bar(*, hidden: bool) -> Iterator[Progress]:
    """Show progress on standard error while the block runs: a bar on a terminal, elsewhere a line now and then."""
    console = Console(stderr=True)
    if hidden or not console.is_terminal or console.is_dumb_terminal:
        yield _lines(sys.maxsize if hidden else _LOG_SECONDS)
        return
    columns = (TextColumn("compressing"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("compress", total=None)
        yield lambda stage, done, total: bar.update(task, completed=done, total=total)


def _lines(seconds: float) -> Progress:
    """Return a progress that prints a line if the last one is so long ago."""
    told = time.monotonic()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= seconds:
            told = time.monotonic()
            typer.echo(f"compressing: {done:,} of {total:,} tokens", err=True)

    return report


@contextmanager
def status(text: str) -> Iterator[Callable[[str | None], None]]:
    """Show what is going on while it lasts, on terminals only; takes another text, or None to vanish."""
    with Console(stderr=True).status(Text(text)) as status:
        yield lambda new: status.stop() if new is None else status.update(Text(safe(new)))
