"""The command that keeps a bank as a folder is; its docstring is its help."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memrecall_kv.cli import show
from memrecall_kv.cli.choice import Choice
from memrecall_kv.cli.commands import (
    AsJson,
    BankPath,
    ConfigFile,
    Device,
    Dtype,
    Kind,
    Model,
    Ratio,
    load_memory,
    made_with,
    open_bank,
)
from memrecall_kv.errors import BankFullError, BankLockedError, InputError
from memrecall_kv.types import Document, IngestReport

if TYPE_CHECKING:  # all three import torch, which takes seconds; an unchanged folder needs no model
    from memrecall_kv.ingest.sync import FolderSync, SyncReport
    from memrecall_kv.pipeline import MemRecall

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the documents.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done; no model.")]
Watch = Annotated[bool, typer.Option("--watch", help="Go on whenever the folder changes, until Ctrl-C.")]
Interval = Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks with --watch.")]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Read only such files, as '*.md'; may be repeated.", show_default=False),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Leave out such files or folders; may be repeated.", show_default=False),
]
RemoveAll = Annotated[
    bool, typer.Option("--remove-all", help="Remove even the last document of an empty or missing folder.")
]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name the bank knows the folder by; its path if left out.", show_default=False),
]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Encoding of the text files; guessed if left out.", show_default=False),
]


def sync(
    ctx: typer.Context,
    folder: Folder,
    bank: BankPath,
    dry_run: DryRun = False,
    watch: Watch = False,
    interval: Interval = 2.0,
    include: Include = None,
    exclude: Exclude = None,
    remove_all: RemoveAll = False,
    name: Name = None,
    encoding: Encoding = None,
    model: Model = None,
    ratio: Ratio = None,
    compressor: Kind = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a bank what a folder is: add, replace, and remove what left the folder.

    Only documents that this folder put there are ever replaced or removed. A file that cannot be read or is left out
    keeps its document. Interrupt at will: the same command goes on where it stopped.
    """
    from memrecall_kv.ingest.sync import FolderSync

    wanted = FolderSync(
        folder,
        bank,
        name=name,
        include=include or (),
        exclude=exclude or (),
        encoding=encoding,
        remove_all=remove_all,
    )
    made = made_with(bank, create=True)
    choice = Choice(model, ratio, compressor, device, dtype, config)
    command = _Syncing(wanted, bank, as_json, lambda: load_memory(ctx, choice, made=made_with(bank, create=True)))
    if dry_run:
        report = command.planned(is_new=not made)
    elif watch:
        command.watch(interval)
        return
    else:
        report = command.once()
    show.synced(report, as_json=as_json, planned=dry_run)
    if report.problems:
        raise typer.Exit(2)


@dataclass
class _Syncing:
    """One folder, its bank, and a model that is loaded when something is to be compressed."""

    folder: FolderSync
    bank: Path
    as_json: bool
    load: Callable[[], MemRecall]

    @cached_property
    def _memory(self) -> MemRecall:
        return self.load()

    def planned(self, *, is_new: bool) -> SyncReport:
        if is_new:
            return self.folder.plan(None)
        with open_bank(self.bank, read_only=True) as opened:
            return self.folder.plan(opened)

    def once(self) -> SyncReport:
        if made_with(self.bank, create=True):
            with open_bank(self.bank, read_only=True) as opened, show.status("Reading the folder"):
                idle = self.folder.idle(opened)
            if idle is not None:
                return idle
        memory = self._memory
        with memory.open_bank(self.bank) as opened, show.bar(hidden=self.as_json) as progress:

            def ingest(documents: Iterable[Document]) -> IngestReport:
                return memory.ingest(opened, documents, progress=progress)

            return self.folder.run(opened, ingest)

    def watch(self, interval: float) -> None:
        """Sync, and again after every change; what may pass is told once and tried again."""
        from memrecall_kv.ingest.watch import Watcher

        watcher = Watcher(self.folder.look, interval)
        told: set[str] = set()
        typer.echo(f"Watching {show.safe(str(self.folder.folder))}; Ctrl-C ends it.", err=True)
        while True:
            try:
                report = self.once()
            except (BankFullError, BankLockedError, InputError) as error:  # these pass
                if error.message not in told:
                    show.complain(error)
                told = {error.message}
                watcher.forget()
            else:
                show.synced(report, as_json=self.as_json, planned=False, known=told)
                told = {problem.message for problem in report.problems}
            watcher.wait()
