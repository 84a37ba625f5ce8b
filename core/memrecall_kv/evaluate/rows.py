"""Rows of a data folder: gzipped JSON lines in the layout of docs/evaluation.md."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from memrecall_kv.errors import InputError

Row = TypeVar("Row")


def read_rows(folder: Path | None, name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file, one after the other.

    Args:
        folder: The data folder.
        name: Path of the file below it.

    Raises:
        InputError: If folder or file is missing, or a line is no JSON object.
    """
    folder = data_folder(folder)
    number = 0
    try:
        with gzip.open(folder / name, "rt", encoding="utf-8") as lines:
            for line in lines:
                number += 1
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line holds no object")
                yield row
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{folder / name}, line {number}: {error}.", "docs/evaluation.md says which files a task needs."
        ) from error


def data_folder(folder: Path | None) -> Path:
    """Return the folder if it is one.

    Raises:
        InputError: If it is not.
    """
    if folder is None or not folder.is_dir():
        raise InputError(
            f"Expected a folder with evaluation data, got {folder or 'none'}.",
            "Name it with --data; docs/evaluation.md says what it holds.",
        )
    return folder


def sample(rows: Sequence[Row], count: int | None, seed: int) -> list[Row]:
    """Return a seeded sample; a larger one begins with the smaller."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)  # noqa: S311  # a sample, not a secret
    return shuffled[:count]


def titled(title: str, text: str) -> str:
    """Return a text with its title in front, if it has one."""
    return f"{title}: {text}" if title else text
