"""What readers of files take and give: bytes in, text with its title and places out."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from memrecall_kv.errors import InputError, MissingDependencyError
from memrecall_kv.ingest.places import Section

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


@dataclass(frozen=True, slots=True)
class FileBytes:
    """A file as it lies there.

    Attributes:
        path: For messages, and for its suffix.
        data: Its bytes.
        encoding: What the caller says of its text; `None` if nothing.
        max_bytes: What it may unpack to at most.
    """

    path: str
    data: bytes
    encoding: str | None
    max_bytes: int


@dataclass(frozen=True, slots=True)
class FileText:
    """What was read of a file.

    Attributes:
        text: Its text.
        title: Its title; empty if it has none.
        sections: Where the text stands in the file; their items, in order, are the text. Empty if nobody knows.
        note: What the reader should know of how it was read; empty if nothing.
    """

    text: str
    title: str = ""
    sections: Sequence[Section] = ()
    note: str = ""


Reader: TypeAlias = Callable[[FileBytes], FileText]
"""Raises `MemRecallError` if a file cannot be read; whatever else it raises is taken for damage of the file."""


def lines_of(text: str, note: str = "", title: str = "") -> FileText:
    """Return a text whose places are its lines."""
    return FileText(text, title, [Section([len(line) for line in split_lines(text)], unit="line")], note)


def split_lines(text: str) -> list[str]:
    """Return the lines of a text with their ends, as editors count them."""
    return _LINES.findall(text)


def too_large(path: str, max_bytes: int, *, unpacked: bool = True) -> InputError:
    """Return the error of a file that is, or unpacks to, more than is allowed."""
    got = "one that unpacks to more" if unpacked else "more"
    return InputError(
        f"{path}: expected at most {max_bytes:,} bytes, got {got}.",
        "Raise --max-file-bytes on the command line, or max_bytes= in Python, if you trust the file.",
    )


def optional(name: str, path: str) -> ModuleType:
    """Return a module of the extra `documents`.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading {Path(path).suffix} files needs {name.split('.')[0]}, which is not installed.",
            'Run: pip install "memrecall-kv[documents]"',
        ) from error
