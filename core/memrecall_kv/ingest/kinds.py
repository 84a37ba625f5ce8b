"""Which reader reads which files, and why some are not read at all."""

from __future__ import annotations

from pathlib import Path

from memrecall_kv.errors import InputError, MemRecallError
from memrecall_kv.ingest.archive import COMPRESSED, unpacked
from memrecall_kv.ingest.book import epub
from memrecall_kv.ingest.encodings import is_binary
from memrecall_kv.ingest.html import html
from memrecall_kv.ingest.mail import eml
from memrecall_kv.ingest.notebook import ipynb
from memrecall_kv.ingest.office import docx, pptx, xlsx
from memrecall_kv.ingest.pdf import pdf
from memrecall_kv.ingest.plain import json_text, markdown, plain, table
from memrecall_kv.ingest.rtf import rtf
from memrecall_kv.ingest.text import FileBytes, FileText, Reader

READERS: dict[str, Reader] = {
    **dict.fromkeys((".txt", ".rst", ".log", ".xml"), plain),
    **dict.fromkeys((".md", ".markdown", ".mdx"), markdown),
    **dict.fromkeys((".csv", ".tsv"), table),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), json_text),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xht"), html),
    ".pdf": pdf,
    **dict.fromkeys((".docx", ".docm"), docx),
    **dict.fromkeys((".pptx", ".pptm"), pptx),
    **dict.fromkeys((".xlsx", ".xlsm"), xlsx),
    ".epub": epub,
    ".eml": eml,
    ".ipynb": ipynb,
    ".rtf": rtf,
}
"""Readers by suffix; every other file is read as text if it is some."""

_BEGINNINGS = ((b"%PDF-", pdf), (b"{\\rtf", rtf), (b"<!doctype html", html), (b"<html", html))
"""Readers by how a file without a known suffix begins."""

UNREAD = {
    "an image": "avif bmp gif heic heif icns ico jpeg jpg png psd svg tif tiff webp",
    "sound": "aac aiff flac m4a mid midi mp3 oga ogg opus wav wma",
    "a film": "avi flv m4v mkv mov mp4 mpeg mpg webm wmv",
    "an archive": "7z cab cpio deb dmg iso jar rar rpm tar tbz2 tgz txz whl zip zst",
    "a program": "a bin class dll dylib exe lib msi o pyc pyd so wasm",
    "a font": "eot otf ttf woff woff2",
    "a database": "accdb db mdb sqlite sqlite3",
    "an old Office document (save it as .docx, .pptx or .xlsx)": "doc dot pot pps ppt xls xlsb xlt",
    "an Outlook file (save it as .eml)": "msg ost pst",
    "an OpenDocument file (save it as .docx, .pptx or .xlsx)": "odg odp ods odt",
    "arrays or model weights": "ckpt gguf h5 hdf5 npy npz onnx parquet pickle pkl pt pth safetensors",
}
"""What is not read, and the suffixes by which it is known."""

_UNREAD_BY_SUFFIX = {f".{suffix}": reason for reason, suffixes in UNREAD.items() for suffix in suffixes.split()}


def unread_kind(path: str) -> str:
    """Return what a file is that is not read, by its name; empty if it may be read."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    if suffixes and suffixes[0] == ".tar" and suffixes[-1] in COMPRESSED:
        return _UNREAD_BY_SUFFIX[".tar"]
    return _UNREAD_BY_SUFFIX.get(suffixes[-1], "") if suffixes else ""


def is_unread(file: FileBytes) -> bool:
    """Return whether a file is not read, by its bytes: those of no known kind, and no text."""
    suffix = Path(file.path).suffix.lower()
    return (
        suffix not in READERS and suffix not in COMPRESSED and _reader(file, suffix) is plain and is_binary(file.data)
    )


def read_text(file: FileBytes) -> FileText:
    """Return a file's text, title and places.

    Raises:
        InputError: If it cannot be read.
        MissingDependencyError: If what reads it is not installed.
    """
    suffix = Path(file.path).suffix.lower()
    try:
        if suffix in COMPRESSED:
            inside = FileBytes(file.path[: -len(suffix)], unpacked(file, suffix), file.encoding, file.max_bytes)
            return read_text(inside)
        return _reader(file, suffix)(file)
    except MemRecallError:
        raise
    except Exception as error:  # what a reader of foreign formats raises depends on where the damage is
        name = suffix.removeprefix(".").upper() or "file"
        raise InputError(
            f"{file.path}: expected a readable {name}, got: {_reason(error)}.",
            "Open it in the program it was made with and save it again.",
        ) from error


def _reader(file: FileBytes, suffix: str) -> Reader:
    if suffix in READERS:
        return READERS[suffix]
    head = file.data[:512].lstrip().lower()
    return next((reader for beginning, reader in _BEGINNINGS if head.startswith(beginning.lower())), plain)


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())[:200].rstrip(".")
    return f"{said or 'damage'} ({type(error).__name__})"
