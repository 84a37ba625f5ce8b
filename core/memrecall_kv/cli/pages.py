"""Pages that a command writes to a file."""

from __future__ import annotations

from pathlib import Path

import typer

from memrecall_kv.cli.show import safe
from memrecall_kv.errors import InputError


def check_place(file: Path | None) -> None:
    """Raise `InputError` if a page could not be written there: before the work, not after it."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise InputError(f"{file}: expected a file in a folder that is there.", "Name another one.")


def write_page(file: Path, page: str) -> None:
    """Write a page, and say so on standard error.

    Raises:
        InputError: If the file cannot be written.
    """
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: expected a file to write, got: {error.strerror}.", "Name another one.") from error
    typer.echo(f"Written to {safe(str(file))}.", err=True)
