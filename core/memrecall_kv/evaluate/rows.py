"""Rows of data files: JSON lines, plain or gzip, in the layouts of docs/training.md and docs/evaluation.md."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from memrecall_kv.errors import InputError

Row = TypeVar("Row")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file, plain or gzip, one after the other.

    Raises:
        InputError: If the file cannot be read or a line is no JSON object.
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line holds no object")
                yield row
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{path}, line {number}: {error}.",
            "Give JSON lines, one object a line; docs/training.md and docs/evaluation.md say which files and fields.",
        ) from error


def read_rows(folder: Path | None, name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of a data folder; raises as `read_lines` and `data_folder`."""
    return read_lines(data_folder(folder) / name)


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
