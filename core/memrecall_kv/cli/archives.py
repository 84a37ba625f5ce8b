"""The commands that take a bank from one place to another as one file; neither needs a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memrecall_kv.cli import show
from memrecall_kv.cli.commands import AsJson, BankPath

ArchivePath = Annotated[Path, typer.Argument(metavar="FILE", help="The exported bank.", show_default=False)]


def export(bank: BankPath, file: ArchivePath, as_json: AsJson = False) -> None:
    """Write a bank as one file, without what was deleted; others may read and write it meanwhile. Needs no model.

    An existing file is not overwritten.
    """
    from memrecall_kv.bank import MemoryBank, export_bank

    with MemoryBank.open(bank, read_only=True) as opened:
        size = export_bank(opened, file)
    if as_json:
        show.print_json({"bytes": size})
    else:
        typer.echo(f"{size:,} bytes written to {show.safe(str(file))}.")


def import_(file: ArchivePath, bank: BankPath, as_json: AsJson = False) -> None:
    """Make a bank from an exported file, after verifying everything in it. Needs no model.

    The bank's directory must be new or empty. Interrupted, it is not there, or whole.
    """
    from memrecall_kv.bank import import_bank

    stats = import_bank(file, bank)
    if as_json:
        show.print_json({"stats": stats})
    else:
        typer.echo(f"{stats.documents:,} documents and {stats.blocks:,} blocks are in {show.safe(str(bank))}.")
