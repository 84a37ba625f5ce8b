"""Files, folders and standard input as documents."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from memrecall_kv.errors import InputError, MemRecallError, MissingDependencyError
from memrecall_kv.ingest.outcome import FileOutcome
from memrecall_kv.types import Document

STDIN = "-"
"""The path that stands for standard input; its document's id is `stdin`."""

MAX_FILE_BYTES = 256 * 2**20
"""The largest file that is read, unless another limit is given."""

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


def read_documents(
    paths: Iterable[str | Path],
    *,
    encoding: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = MAX_FILE_BYTES,
    problems: list[MemRecallError] | None = None,
) -> Iterator[Document]:
    """Return an iterator over a document per readable file, folders searched to the bottom in sorted order.

    What is skipped, and why, is told by `read_files`, which this calls.

    Args:
        paths: As in `read_files`.
        encoding: As in `read_files`.
        include: As in `read_files`.
        exclude: As in `read_files`.
        max_bytes: As in `read_files`.
        problems: Takes the errors of files that cannot be read, while the others go on; if `None`, they are
            raised after the last good file.

    Raises:
        InputError: As `read_files`; later, if a file cannot be read, or a folder has nothing to read.
        MissingDependencyError: Later, if what reads a file is not installed.
    """
    outcomes = read_files(paths, encoding=encoding, include=include, exclude=exclude, max_bytes=max_bytes)
    return _documents(outcomes, problems)


def read_files(
    paths: Iterable[str | Path],
    *,
    encoding: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = MAX_FILE_BYTES,
) -> Iterator[FileOutcome]:
    """Return an iterator over what became of each file, in sorted order; see `find_files` and `read_file`.

    Args:
        paths: Files, folders, or `-` for standard input.
        encoding: Of all text files; if `None`, what a byte-order mark says, UTF-8, or a guess.
        include: Patterns of the files of folders to read; if empty, all.
        exclude: Patterns of files and folders to leave out.
        max_bytes: Largest file that is read.

    Raises:
        InputError: If a path does not exist or nobody knows the encoding.
    """
    paths = list(paths)
    _refuse_unknown_encoding(encoding)
    found = find_files(paths, include=include, exclude=exclude)
    return (read_file(file, encoding=encoding, max_bytes=max_bytes) for file in found)


def find_files(
    paths: Iterable[str | Path], *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Iterator[FileOutcome]:
    """Return an iterator over the files of paths, none of them read yet: those to skip already say why.

    An id is the path relative to the folder that was given, with forward slashes; of a file that was given, its
    name; of standard input, `stdin`. The order is that of the paths, in a folder that of the ids.

    Args:
        paths: Files, folders, or `-` for standard input.
        include: Patterns of the files of folders to read; if empty, all.
        exclude: Patterns of files and folders to leave out.

    Raises:
        InputError: If a path does not exist.
    """
    paths = list(paths)
    _refuse_missing(paths)
    return _found(paths, include, exclude)


def read_file(file: FileOutcome, *, encoding: str | None = None, max_bytes: int = MAX_FILE_BYTES) -> FileOutcome:
    """Return what became of a file of `find_files`; one that is skipped or failed already comes back as it is.

    Args:
        file: What to read.
        encoding: Of all text files; if `None`, what a byte-order mark says, UTF-8, or a guess.
        max_bytes: Largest file that is read.
    """
    if file.skipped or file.error is not None:
        return file
    try:
        return replace(file, document=_read(file, encoding))
    except MemRecallError as error:
        return file.failed(error)


def _documents(outcomes: Iterator[FileOutcome], problems: list[MemRecallError] | None) -> Iterator[Document]:
    found: list[MemRecallError] = []
    for outcome in outcomes:
        if outcome.error is not None:
            found.append(outcome.error)
        if outcome.document is not None:
            yield outcome.document
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


def _found(paths: list[str | Path], include: Sequence[str], exclude: Sequence[str]) -> Iterator[FileOutcome]:
    seen: dict[str, str] = {}
    for path in paths:
        if str(path) == STDIN:
            files = [FileOutcome("stdin", STDIN)]
        elif Path(path).is_dir():
            files = sorted(_walk(Path(path)), key=lambda file: file.id)
            if not any(not file.skipped for file in files):
                files.append(
                    FileOutcome(
                        str(path),
                        str(path),
                        error=InputError(
                            f"{path}: expected files with a known suffix, got none.",
                            f"Known are {' '.join(_READERS)}; or name the files one by one.",
                        ),
                    )
                )
        else:
            files = [FileOutcome(Path(path).name, str(path))]
        for file in files:
            yield _unless_taken(file, seen)


def _unless_taken(file: FileOutcome, seen: dict[str, str]) -> FileOutcome:
    if file.skipped or file.error is not None:
        return file
    if file.id in seen:
        return file.failed(
            InputError(
                f"{file.path}: expected an id of its own, got {file.id!r} like {seen[file.id]}.",
                "Give the folder that holds both, or ingest them under different names.",
            )
        )
    seen[file.id] = file.path
    if any("\ud800" <= character <= "\udfff" for character in file.id):
        return file.failed(
            InputError(f"{file.path!r}: expected a file name in Unicode, got other bytes.", "Rename the file.")
        )
    return file


def _walk(root: Path) -> Iterator[FileOutcome]:
    broken: list[FileOutcome] = []

    def note(error: OSError) -> None:
        broken.append(
            FileOutcome(str(error.filename), str(error.filename), error=_unreadable(str(error.filename), error))
        )

    for folder, below, names in os.walk(root, onerror=note):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            # is_file: a pipe or a socket inside a folder would block
            if path.suffix.lower() in _READERS and not name.startswith(".") and path.is_file():
                yield FileOutcome(path.relative_to(root).as_posix(), str(path))
    yield from broken


def _read(source: FileOutcome, encoding: str | None) -> Document:
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
