"""The commands that measure; their docstrings are their help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memrecall_kv.cli import show
from memrecall_kv.cli.choice import Choice
from memrecall_kv.cli.commands import ConfigFile, Device, Dtype, Model
from memrecall_kv.errors import InputError

if TYPE_CHECKING:  # imports torch, which takes seconds
    from memrecall_kv.config import MemRecallConfig
    from memrecall_kv.evaluate.settings import RunConfig
    from memrecall_kv.pipeline import MemRecall


class Order(StrEnum):
    """Where the evidence stands."""

    FORWARD = "forward"
    REVERSED = "reversed"
    RANDOM = "random"


Tasks = Annotated[
    list[str], typer.Option("--task", metavar="NAME", help="Name of a task; may be repeated.", show_default=False)
]
Systems = Annotated[
    list[str] | None,
    typer.Option(
        "--system",
        metavar="NAME",
        help="Name of a system, NAME or NAME:KEY=VALUE,...; may be repeated.",
        show_default=False,
    ),
]
Lengths = Annotated[
    list[str],
    typer.Option(
        "--documents",
        metavar="N[:Q]",
        help="Documents of a context, and Q questions at this length; may be repeated.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of the run: rows, summary, tables, pictures.", show_default=False)]
Data = Annotated[Path | None, typer.Option(help="Folder with the data; synthetic tasks need none.", show_default=False)]
NumQuestions = Annotated[
    int | None, typer.Option("--questions", metavar="N", min=1, help="Questions at each length; all if left out.")
]
Seed = Annotated[int, typer.Option(help="Of questions, haystacks and places.")]
EvidenceOrder = Annotated[
    Order | None,
    typer.Option(metavar="ORDER", help="Order of the evidence: forward, reversed, random; the task's own if left out."),
]
Share = Annotated[int, typer.Option(metavar="N", min=1, help="Questions that share a context at most.")]
Part = Annotated[
    str,
    typer.Option(metavar="I/N", help="The I-th of N parts of the contexts, to run parts side by side; folders differ."),
]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="Only questions of this type; may be repeated.", show_default=False)
]
Banks = Annotated[
    Path | None, typer.Option(help="Keep blocks in this folder, and compress no text twice.", show_default=False)
]
Against = Annotated[
    str | None, typer.Option(help="System the others are compared with; the first if left out.", show_default=False)
]
Plots = Annotated[bool, typer.Option("--plots", help="Draw pictures too; needs matplotlib.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]


def evaluate(
    ctx: typer.Context,
    task: Tasks,
    documents: Lengths,
    out: Out,
    system: Systems = None,
    data: Data = None,
    questions: NumQuestions = None,
    seed: Seed = 0,
    order: EvidenceOrder = None,
    share: Share = 1,
    kind: Kinds = None,
    concurrency: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Questions asked at the same time; of one context, but for memagent."),
    ] = 1,
    part: Part = "1/1",
    banks: Banks = None,
    against: Against = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
    plots: Plots = False,
    as_json: AsJson = False,
) -> None:
    """Ask systems questions about documents of growing number and tell how often they are right, and at what cost.

    Every answer becomes a row of OUT/rows.jsonl. Interrupt at will: the same command goes on where it stopped. At the
    end OUT holds summary.json, summary.md and, with --plots, pictures. docs/evaluation.md lists tasks and systems.
    """
    from memrecall_kv.evaluate.run import Run

    choice = Choice(model, device=device, dtype=dtype, config=config)
    settings = _settings(
        task, system or ["memrecall"], documents, questions, seed, order, share, kind, concurrency, part
    )
    with _bar(settings, hidden=as_json) as bar:
        asked = bar.add_task("asking", total=_total(settings))

        def report(what: str, done: int) -> None:
            bar.update(asked, advance=done, description=what)

        def open(changed: MemRecallConfig | None) -> MemRecall:
            chosen = changed or choice.settings({})
            pipeline: MemRecall = ctx.obj(model, config=chosen, device=device, dtype=dtype or "auto")
            return pipeline

        Run(out, open, data, settings, banks=banks, report=report).run()
    _conclude(out, against, plots=plots, as_json=as_json)


def bench(
    task: Tasks,
    documents: Lengths,
    out: Out,
    system: Systems = None,
    data: Data = None,
    questions: NumQuestions = 4,
    seed: Seed = 0,
    order: EvidenceOrder = None,
    share: Share = 1,
    kind: Kinds = None,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Questions asked at the same time; may be repeated; 1 if left out."),
    ] = None,
    banks: Banks = None,
    against: Against = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
    plots: Plots = False,
    as_json: AsJson = False,
) -> None:
    """Measure seconds, peak memory, bytes and tokens of systems, each in a process of its own.

    Runs `eval` once for each system, task, length and concurrency, with the same folder of results. Cold is a
    context's preparation and its first question, warm is a question after that; let several questions share a context
    with --share. memrecall, memagent and bm25 are measured if no system is named.
    """
    from memrecall_kv.evaluate.ledger import ROWS, Ledger
    from memrecall_kv.evaluate.run import Cell, check

    systems = system or ["memrecall", "memagent", "bm25"]
    levels = concurrency or [1]
    settings = _settings(task, systems, documents, questions, seed, order, share, kind, max(levels))
    check(settings, data)
    options: list[tuple[str, Any]] = [
        ("--out", out), ("--seed", seed), ("--share", share), ("--device", device), ("--data", data),
        ("--order", order), ("--banks", banks), ("--model", model), ("--dtype", dtype), ("--config", config),
        *(("--kind", one) for one in kind or ()),
    ]  # fmt: skip
    shared = [str(part) for name, value in options if value is not None for part in (name, value)]
    for one_task, (count, asked), many, one in product(task, settings.lengths, levels, systems):
        key = Cell(one, one_task, count, order.value if order else "own", share, many).key("process", "")
        if out.is_dir() and key in Ledger(out / ROWS):
            continue
        length = f"{count}:{asked}" if asked else str(count)
        cell = ["--task", one_task, "--system", one, "--documents", length, "--concurrency", str(many)]
        _run_alone([*cell, *shared], f"{one}, {one_task}, {count:,} documents, {many} at once")
    _conclude(out, against, plots=plots, as_json=as_json)


def _run_alone(arguments: Sequence[str], what: str) -> None:
    """Run `eval` in a process of its own; its errors are shown as they come, and end this one too."""
    typer.echo(what, err=True)
    command = [sys.executable, "-m", "memrecall_kv", "eval", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603  # this very program
    if done.returncode:
        raise typer.Exit(done.returncode)


def _settings(
    tasks: list[str],
    systems: list[str],
    documents: list[str],
    questions: int | None,
    seed: int,
    order: Order | None,
    share: int,
    kinds: list[str] | None,
    concurrency: int,
    part: str = "1/1",
) -> RunConfig:
    from memrecall_kv.evaluate.settings import RunConfig

    return RunConfig(
        tasks=tuple(tasks),
        systems=tuple(systems),
        lengths=tuple(_length(text, questions) for text in documents),
        seed=seed,
        order=order.value if order else None,
        share=share,
        kinds=tuple(kinds or ()),
        concurrency=concurrency,
        part=_part(part),
    )


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal():
        raise InputError(f"--part: expected I/N, got {text!r}.", "As 1/4.")
    return int(number), int(count)


def _length(text: str, questions: int | None) -> tuple[int, int | None]:
    count, colon, asked = text.partition(":")
    if not count.isdecimal() or (colon and not asked.isdecimal()) or int(count) < 1 or asked == "0":
        raise InputError(f"--documents: expected a number, or NUMBER:QUESTIONS, got {text!r}.", "As 50:200.")
    return int(count), int(asked) if colon else questions


def _total(settings: RunConfig) -> int | None:
    asked = [questions for _, questions in settings.lengths]
    known = sum(questions for questions in asked if questions)
    return known * len(settings.tasks) * len(settings.systems) if all(asked) and settings.part == (1, 1) else None


def _conclude(out: Path, against: str | None, *, plots: bool, as_json: bool) -> None:
    """Write the summary in all its forms and print it."""
    from memrecall_kv.evaluate.ledger import ROWS, Ledger
    from memrecall_kv.evaluate.measures.plots import draw
    from memrecall_kv.evaluate.measures.summary import summarize
    from memrecall_kv.evaluate.measures.tables import markdown
    from memrecall_kv.evaluate.run import RUN

    rows = list(Ledger(out / ROWS))
    names = list(dict.fromkeys(row["system"] for row in rows))
    if against is not None and against not in names:
        raise InputError(f"--against: expected a system of the run, got {against!r}.", f"It has {', '.join(names)}.")
    summary = summarize(rows, against=against)
    page = markdown(summary, json.loads((out / RUN).read_text(encoding="utf-8")))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (out / "summary.md").write_text(page, encoding="utf-8")
    pictures = draw(summary, out) if plots else []
    if as_json:
        show.print_json(summary)
    else:
        typer.echo(page)
        typer.echo(f"{out / 'summary.json'} has all figures, {len(pictures)} pictures are beside it.")


def _bar(settings: RunConfig, *, hidden: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=hidden)
