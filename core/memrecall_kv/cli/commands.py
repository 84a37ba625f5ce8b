"""The commands, one function each; their docstrings are their help."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from memrecall_kv.cli import demo as demonstration
from memrecall_kv.cli import show
from memrecall_kv.cli.choice import Choice, CompressorName
from memrecall_kv.cli.pages import check_place, write_page
from memrecall_kv.cli.reading import Reading
from memrecall_kv.cli.session import Session, piped_lines, typed_lines
from memrecall_kv.errors import BankError, InputError
from memrecall_kv.ingest.files import MAX_FILE_BYTES, read_files

if TYPE_CHECKING:  # both import torch, which takes seconds; commands that need no model do without
    from memrecall_kv.bank.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall

Loader: TypeAlias = Callable[..., "MemRecall"]
"""Called like `MemRecall.from_pretrained`."""

BankPath = Annotated[Path, typer.Argument(metavar="BANK", help="Directory of the bank.", show_default=False)]
Model = Annotated[
    str | None, typer.Option(help="Directory or hub id of the model; the default one if left out.", show_default=False)
]
Ratio = Annotated[int | None, typer.Option(help="Source tokens per memory token.", show_default=False)]
Kind = Annotated[
    CompressorName | None,
    typer.Option(
        "--compressor", metavar="KIND", help="select, stride, pool, hybrid or memory_tokens.", show_default=False
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; auto is the CPU.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, float16; what the processor computes if left out.", show_default=False),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings in JSON, as MemRecallConfig takes them.", show_default=False
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="K", min=1, help="Open exactly this many blocks, the best first.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Questions = Annotated[
    list[str] | None,
    typer.Argument(metavar="QUESTION", help="What is asked; a session if left out.", show_default=False),
]


def demo(
    ctx: typer.Context,
    bank: Annotated[Path | None, typer.Option(help="Directory of the bank.", show_default=False)] = None,
    model: Model = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compress a book that is in the package and ask questions about it.

    The first run compresses the book; later ones find it in the bank, which is kept in the user's cache folder,
    or in MEMRECALL_KV_HOME, or where --bank says.
    """
    memory = load_memory(ctx, Choice(model, device=device), made=made_with(bank, create=True) if bank else {})
    path = bank or demonstration.bank_path(memory)
    with memory.open_bank(path) as opened:
        if not as_json:
            typer.echo(f"Alice's Adventures in Wonderland goes into {path}, once.")
        with show.bar(hidden=as_json) as progress:
            report = demonstration.ingest_book(memory, opened, progress)
        if not as_json:
            reused = "The bank holds the book already and is used again." if report.documents_unchanged else ""
            typer.echo(reused or show.ingested(report))
        for question, events in demonstration.ask_questions(memory, opened):
            show.tell(question, events, as_json=as_json, heading=True)
    if not as_json:
        typer.echo(f'\nYour turn: memrecall-kv ask {path} "What did the Caterpillar smoke?"')


def ingest(
    ctx: typer.Context,
    bank: BankPath,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files, folders, or - for standard input.", show_default=False),
    ],
    model: Model = None,
    ratio: Ratio = None,
    compressor: Kind = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the text files; guessed if left out.", show_default=False)
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Read only such files of folders, as '*.pdf'.", show_default=False),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out such files and folders.", show_default=False),
    ] = None,
    max_file_bytes: Annotated[
        int, typer.Option(metavar="N", min=1, help="The most that a file may have, and unpack to.")
    ] = MAX_FILE_BYTES,
    defer: Annotated[
        bool, typer.Option("--defer", help="Store the texts alone; a question compresses what it comes near.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compress documents into a bank; what it holds already is skipped.

    Text, source code, tables, HTML, PDF, Word, PowerPoint, Excel, EPUB, mails, notebooks and RTF are read;
    docs/files.md says more. A document's id is its path relative to the folder. Interrupt at will: the same command
    goes on where it stopped. The exit code is 2 if a file could not be read; the others are in the bank then.
    """
    reading = Reading()
    outcomes = read_files(
        paths, encoding=encoding, include=include or (), exclude=exclude or (), max_bytes=max_file_bytes
    )
    memory = load_memory(
        ctx, Choice(model, ratio, compressor, device, dtype, config), made=made_with(bank, create=True)
    )
    with memory.open_bank(bank) as opened, show.bar(hidden=as_json) as progress:
        report = memory.ingest(opened, reading.documents(outcomes), defer=defer, progress=progress)
    if as_json:
        problems = [problem.message for problem in reading.problems]
        show.print_json({"report": report, "problems": problems, "files": reading.rows})
    else:
        typer.echo(show.ingested(report))
        reading.tell()
    for problem in reading.problems:
        show.complain(problem)
    if reading.problems:
        raise typer.Exit(2)


def ask(
    ctx: typer.Context,
    bank: BankPath,
    questions: Questions = None,
    top_k: TopK = None,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep a session's questions in a file, for the arrow keys.", show_default=False
        ),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Also show what was judged, opened and noted.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write how one question was answered as a page.", show_default=False),
    ] = None,
    model: Model = None,
    ratio: Ratio = None,
    compressor: Kind = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Answer questions from a bank, with the spans of text the answers rest on.

    Without a question a session begins: questions are typed, or piped line by line, and may refer to earlier ones. How
    a follow-up question was understood is shown. Ctrl-C stops an answer, Ctrl-D or exit ends the session.

    The exit code is 1 if an answer was not found, but not where questions are typed.
    """
    if report is not None and len(questions or ()) != 1:
        raise InputError(f"Expected one question for {report}, got {len(questions or ())}.", "Ask them one by one.")
    check_place(report)
    memory = load_memory(ctx, Choice(model, ratio, compressor, device, dtype, config), made=made_with(bank))
    with _asked(memory, bank) as opened:
        if not questions:
            raise typer.Exit(_hold_session(memory, opened, top_k, history, as_json=as_json, trace=trace))
        answers = [
            show.tell(
                question,
                memory.stream(opened, question, top_k=top_k),
                as_json=as_json,
                heading=len(questions) > 1,
                trace=trace,
            )
            for question in questions
        ]
        if report is not None:
            write_page(report, answers[0].to_html(opened))
    if not all(answer.found for answer in answers):
        raise typer.Exit(1)


def _hold_session(
    memory: MemRecall, bank: MemoryBank, top_k: int | None, history: Path | None, *, as_json: bool, trace: bool
) -> int:
    typed = sys.stdin.isatty()
    if typed:
        typer.echo(
            f"{bank.path.name} holds {bank.stats().documents} documents. Ctrl-C stops an answer, Ctrl-D or exit ends.",
            err=True,
        )
    session = Session(memory, bank, top_k, as_json, typed, trace)
    return session.run(typed_lines(history) if typed else piped_lines())


def recall(
    ctx: typer.Context,
    bank: BankPath,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.", show_default=False)],
    top_k: TopK = None,
    model: Model = None,
    ratio: Ratio = None,
    compressor: Kind = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the spans of text that a question opens, without an answer.

    The exit code is 1 if nothing was opened.
    """
    memory = load_memory(ctx, Choice(model, ratio, compressor, device, dtype, config), made=made_with(bank))
    with _asked(memory, bank) as opened, show.status(f"Looking through {len(opened)} blocks"):
        recalls = memory.recall(opened, question, top_k=top_k)
    for opened_chunk in recalls:
        if as_json:
            show.print_json(opened_chunk)
        else:
            typer.echo(show.cited(opened_chunk, question))
    if not recalls:
        raise typer.Exit(1)


def inspect(
    bank: BankPath,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page instead, to search in.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a bank holds and what it was made with; needs no model."""
    from memrecall_kv.report.bank import bank_page

    check_place(html)
    with open_bank(bank, read_only=True) as opened:
        if html is not None:
            write_page(html, bank_page(opened))
            return
        stats, fingerprint = opened.stats(), dict(opened.fingerprint)
        documents = opened.documents()
    if as_json:
        listed = [{"id": each.id, "characters": len(each.text), "metadata": each.metadata} for each in documents]
        show.print_json({"stats": stats, "fingerprint": fingerprint, "documents": listed})
        return
    for title, rows in (("Size", dataclasses.asdict(stats)), ("Made with", fingerprint)):
        show.table(title, "", [(name.replace("_", " "), value) for name, value in rows.items()])
    show.table("Document", "Characters", [(each.id, len(each.text)) for each in documents])


def delete(
    bank: BankPath,
    doc_ids: Annotated[list[str], typer.Argument(metavar="DOC_ID", help="As inspect shows them.")],
    as_json: AsJson = False,
) -> None:
    """Delete documents from a bank; all or, if one is not there, none. Needs no model."""
    with open_bank(bank) as opened:
        unknown = [doc_id for doc_id in doc_ids if doc_id not in opened]
        if unknown:
            raise InputError(
                f"Expected ids of documents in {bank}, got {', '.join(unknown)}.",
                "See them with: memrecall-kv inspect",
            )
        opened.delete_many(doc_ids)
    if as_json:
        show.print_json({"deleted": doc_ids})
    else:
        typer.echo(f"Deleted {', '.join(show.safe(doc_id) for doc_id in doc_ids)}. compact frees the space.")


def verify(bank: BankPath, as_json: AsJson = False) -> None:
    """Check every block in use against its checksum; needs no model. The exit code is 1 if one is damaged."""
    with open_bank(bank, read_only=True) as opened:
        try:
            blocks = opened.verify()
        except BankError as error:
            if as_json:
                show.print_json({"ok": False, "problem": error.message})
            show.complain(error)
            raise typer.Exit(1) from error
    if as_json:
        show.print_json({"ok": True, "blocks": blocks})
    else:
        typer.echo(f"All {blocks:,} blocks are whole.")


def compact(bank: BankPath, as_json: AsJson = False) -> None:
    """Rewrite a bank without what was deleted; needs no model."""
    with open_bank(bank) as opened:
        freed = opened.compact()
    if as_json:
        show.print_json({"freed_bytes": freed})
    else:
        typer.echo(f"{freed:,} bytes freed.")


def load_memory(ctx: typer.Context, choice: Choice, *, made: Mapping[str, str]) -> MemRecall:
    """Return the pipeline that is asked for; `made` is the fingerprint of its bank."""
    load: Loader = ctx.obj
    with show.status("Loading the model"):
        return load(
            choice.model,
            config=choice.settings(made),
            device=choice.device,
            dtype=choice.dtype or "auto",
        )


def _asked(memory: MemRecall, bank: Path) -> MemoryBank:
    """Open a bank for questions: for reading, unless they may have to compress what was deferred or evicted."""
    with open_bank(bank, read_only=True) as opened:
        stats = opened.stats()
    return memory.open_bank(bank, read_only=not (stats.chunks_deferred or stats.chunks_evicted))


def made_with(bank: Path, *, create: bool = False) -> Mapping[str, str]:
    """Return the fingerprint of a bank, nothing if it is still to be created."""
    if create and not (bank.is_dir() and any(bank.iterdir())):
        return {}
    with open_bank(bank, read_only=True) as opened:
        return dict(opened.fingerprint)


def open_bank(bank: Path, *, read_only: bool = False) -> MemoryBank:
    """Open a bank that is there, or its shards, without a model."""
    from memrecall_kv.bank import shards

    return shards.open_bank(bank, read_only=read_only)
