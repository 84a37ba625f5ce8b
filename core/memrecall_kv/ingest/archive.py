"""Files inside a file: zip containers of office documents and books, and single compressed files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from memrecall_kv.errors import InputError
from memrecall_kv.ingest.text import FileBytes, too_large

_DOCTYPES = tuple("<!DOCTYPE".encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be"))
_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = frozenset(_OPENERS)
"""Suffixes of compressed single files."""


def open_zip(file: FileBytes) -> zipfile.ZipFile:
    """Return an open container that unpacks to no more than is allowed.

    A member never gives more bytes than the directory says, so that adding up what it says is enough.

    Raises:
        InputError: If it unpacks to more, or a part of it is encrypted.
    """
    container = zipfile.ZipFile(io.BytesIO(file.data))
    if sum(part.file_size for part in container.infolist()) > file.max_bytes:
        raise too_large(file.path, file.max_bytes)
    if any(part.flag_bits & 1 for part in container.infolist()):
        raise InputError(f"{file.path}: expected a readable file, got one with a password.", "Save it without one.")
    return container


def refuse_entities(container: zipfile.ZipFile, path: str, suffixes: Iterable[str] = (".xml", ".rels")) -> None:
    """Check that no part declares a document type, which office documents never do and entity bombs need.

    Raises:
        InputError: If one does.
    """
    for part in container.infolist():
        if part.filename.lower().endswith(tuple(suffixes)):
            data = container.read(part).upper()
            if any(mark in data for mark in _DOCTYPES):
                raise InputError(
                    f"{path}: expected an office document, got one that declares XML entities in {part.filename}.",
                    "Do not open it unless you know who made it.",
                )


def unpacked(file: FileBytes, suffix: str) -> bytes:
    """Return what is in a compressed single file.

    Raises:
        InputError: If it is more than is allowed.
    """
    with _OPENERS[suffix](io.BytesIO(file.data)) as inside:
        data: bytes = inside.read(file.max_bytes + 1)
    if len(data) > file.max_bytes:
        raise too_large(file.path, file.max_bytes)
    return data
