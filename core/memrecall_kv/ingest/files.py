"""Files, folders and standard input as documents."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from memrecall_kv.errors import InputError, MemRecallError, MissingDependencyError
from memrecall_kv.types import Document

STDIN = "-"
"""The path that stands for standard input; its document's id is `stdin`."""

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY_SHARE = 0.3
"""Share of undecodable characters from which a file is no longer taken for text."""
_UNSEEN = ["script", "style", "noscript", "template", "head"]
_BLOCKS = (
    "address article aside blockquote caption dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main nav ol p pre section table tr ul"
).split()
_HEADING = re.compile(r"^#[ \t]+(\S.*?)[ \t]*#*[ \t]*\r?$", re.MULTILINE)

_Parsed: TypeAlias = tuple[str, str]  # text, title or ""


@dataclass(frozen=True, slots=True)
class _Source:
    """Something to read: its document's id, and its path or `-`."""

    id: str
    path: str


def read_documents(
    paths: Iterable[str | Path], *, encoding: str | None = None, problems: list[MemRecallError] | None = None
) -> Iterator[Document]:
    """Return an iterator over a document per readable file, folders searched to the bottom in sorted order.

    A document's id is its path relative to the folder that was given, with forward slashes; for a file that
    was given, its name; for standard input, `stdin`. Its metadata are `source`, the path as reached, and
    `title`, if the file has one. In folders, files with an unknown suffix and hidden ones are passed over;
    a file that was given by name is read as plain text whatever its suffix.

    Args:
        paths: Files, folders, or `-` for standard input.
        encoding: Of all text files; if `None`, UTF-8, or what a byte-order mark or an HTML page says.
        problems: Takes the errors of files that cannot be read, while the others go on; if `None`, they are
            raised after the last good file.

    Raises:
        InputError: If a path does not exist or nobody knows the encoding; later, if a file is empty, binary,
            damaged or in another encoding, or two have the same id.
        MissingDependencyError: Later, if an HTML or PDF file is there and what reads it is not.
    """
    paths = list(paths)
    _refuse_missing(paths)
    _refuse_unknown_encoding(encoding)
    return _documents(paths, encoding, problems)


def _documents(
    paths: list[str | Path], encoding: str | None, problems: list[MemRecallError] | None
) -> Iterator[Document]:
    found: list[MemRecallError] = []
    seen: dict[str, str] = {}
    for source in _sources(paths, found):
        try:
            _refuse_taken(source, seen)
            yield _read(source, encoding)
        except MemRecallError as error:
            found.append(error)
    if problems is not None:
        problems.extend(found)
    elif len(found) == 1:
        raise found[0]
    elif found:
        listed = "\n".join(f"- {problem.message}" for problem in found)
        raise InputError(f"{len(found)} files could not be read:\n{listed}\n", found[0].hint)


def _refuse_missing(paths: list[str | Path]) -> None:
    for path in paths:
        if str(path) != STDIN and not Path(path).exists():
            raise InputError(f"{path}: expected a file or folder, got nothing there.", "Check the path.")


def _refuse_unknown_encoding(encoding: str | None) -> None:
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError as error:
        raise InputError(
            f"Expected the name of an encoding, got {encoding!r}.", "Use a name such as utf-8, cp1252 or shift_jis."
        ) from error


def _refuse_taken(source: _Source, seen: dict[str, str]) -> None:
    if source.id in seen:
        raise InputError(
            f"{source.path}: expected an id of its own, got {source.id!r} like {seen[source.id]}.",
            "Give the folder that holds both, or ingest them under different names.",
        )
    seen[source.id] = source.path
    if any("\ud800" <= character <= "\udfff" for character in source.id):
        raise InputError(f"{source.path!r}: expected a file name in Unicode, got other bytes.", "Rename the file.")


def _sources(paths: list[str | Path], problems: list[MemRecallError]) -> Iterator[_Source]:
    for path in paths:
        if str(path) == STDIN:
            yield _Source("stdin", STDIN)
        elif Path(path).is_dir():
            inside = sorted(_walk(Path(path), problems), key=lambda source: source.id)
            if not inside:
                problems.append(
                    InputError(
                        f"{path}: expected files with a known suffix, got none.",
                        f"Known are {' '.join(_READERS)}; or name the files one by one.",
                    )
                )
            yield from inside
        else:
            yield _Source(Path(path).name, str(path))


def _walk(root: Path, problems: list[MemRecallError]) -> Iterator[_Source]:
    def note(error: OSError) -> None:
        problems.append(_unreadable(str(error.filename), error))

    for folder, below, names in os.walk(root, onerror=note):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            # is_file: a pipe or a socket inside a folder would block
            if path.suffix.lower() in _READERS and not name.startswith(".") and path.is_file():
                yield _Source(path.relative_to(root).as_posix(), str(path))


def _read(source: _Source, encoding: str | None) -> Document:
    try:
        data = sys.stdin.buffer.read() if source.path == STDIN else Path(source.path).read_bytes()
    except OSError as error:
        raise _unreadable(source.path, error) from error
    reader = _READERS.get(Path(source.path).suffix.lower(), _plain)
    text, title = reader(data, source.path, encoding)
    if not text.strip():
        raise InputError(f"{source.path}: expected text, got an empty file.", "Leave the file out.")
    metadata = {"source": source.path, **({"title": title} if title else {})}
    return Document(source.id, text, metadata)


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(
        f"{path}: expected a readable file, got: {error.strerror}.", "Check the path and its permissions."
    )


def _plain(data: bytes, path: str, encoding: str | None) -> _Parsed:
    return _decode(data, path, encoding), ""


def _markdown(data: bytes, path: str, encoding: str | None) -> _Parsed:
    text = _decode(data, path, encoding)
    heading = _HEADING.search(text)
    return text, heading.group(1) if heading else ""


def _html(data: bytes, path: str, encoding: str | None) -> _Parsed:
    bs4 = _import("bs4", path)
    declared = bs4.dammit.EncodingDetector.find_declared_encoding(data, is_html=True)
    markup = _decode(data, path, encoding or (declared if _is_known(declared) else None))
    if "<" not in markup:
        return markup, ""
    # without its first line an XHTML page is HTML, which is how browsers take it as well
    soup = bs4.BeautifulSoup(re.sub(r"^\s*<\?xml[^>]*>", "", markup), "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(_UNSEEN):
        tag.decompose()
    for tag in soup("br"):
        tag.replace_with("\n")
    for tag in soup(_BLOCKS):
        tag.insert_before("\n\n")
        tag.append("\n\n")
    lines = (" ".join(line.split()) for line in soup.get_text().splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), title


def _pdf(data: bytes, path: str, encoding: str | None) -> _Parsed:
    pypdf = _import("pypdf", path)
    # what pypdf raises on a damaged file depends on where the damage is
    damage = (ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, RecursionError, TypeError)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        locked = reader.is_encrypted and not reader.decrypt("")
        text = "" if locked else "\n\n".join(page.extract_text() for page in reader.pages)
        title = "" if locked else str((reader.metadata or {}).get("/Title") or "").strip()
    except (pypdf.errors.PyPdfError, pypdf.errors.DependencyError, ValueError, *damage) as error:
        raise InputError(
            f"{path}: expected a readable PDF, got: {error}.", "Open it in a viewer and save it again."
        ) from error
    if locked:
        raise InputError(f"{path}: expected a readable PDF, got one with a password.", "Save it without one.")
    if not text.strip():
        raise InputError(f"{path}: expected a PDF with text, got pages without.", "Run text recognition on it first.")
    # characters that the PDF's fonts do not map to Unicode come out as halves of surrogate pairs
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), title


_READERS: dict[str, Callable[[bytes, str, str | None], _Parsed]] = {
    ".txt": _plain,
    ".md": _markdown,
    ".markdown": _markdown,
    ".rst": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
"""How the files of a folder are read, by suffix."""


def _decode(data: bytes, path: str, encoding: str | None) -> str:
    """Return a file's text without its byte-order mark.

    Raises:
        InputError: If it is binary or in another encoding.
    """
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    chosen = encoding or marked or "utf-8"
    if not encoding and not marked and b"\0" in data:
        raise InputError(
            f"{path}: expected text, got binary data (a NUL at byte {data.index(0)}).", "Convert it to text first."
        )
    try:
        return data.decode(chosen).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        lost = data.decode(chosen, errors="replace").count("\ufffd")
        kind = "binary data or text in another encoding" if lost > _BINARY_SHARE * len(data) else "another encoding"
        raise InputError(
            f"{path}: expected text in {chosen}, got {kind} (byte {error.start} is 0x{data[error.start]:02x}).",
            "Name the encoding with --encoding on the command line, or encoding= in Python.",
        ) from error


def _is_known(encoding: Any) -> bool:
    try:
        return bool(encoding) and bool(codecs.lookup(encoding))
    except LookupError:
        return False


def _import(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading {Path(path).suffix} files needs {name}, which is not installed.",
            'Run: pip install "memrecall-kv[documents]"',
        ) from error
