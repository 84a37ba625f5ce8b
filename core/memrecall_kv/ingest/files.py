"""Files, folders and standard input as documents."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from memrecall_kv.errors import InputError, MemRecallError
from memrecall_kv.ingest.encodings import refuse_unknown_encoding
from memrecall_kv.ingest.kinds import READERS, is_unread, read_text, unread_kind
from memrecall_kv.ingest.outcome import FileOutcome
from memrecall_kv.ingest.patterns import Patterns
from memrecall_kv.ingest.places import PLACES, to_metadata
from memrecall_kv.ingest.text import FileBytes, too_large
from memrecall_kv.types import Document

STDIN = "-"
"""The path that stands for standard input; its document's id is `stdin`."""

MAX_FILE_BYTES = 128 * 2**20
"""The most that a file may have, and unpack to, unless another limit is given."""

_VERSION_CONTROL = frozenset({".git", ".hg", ".svn", ".bzr", "CVS", "_darcs"})
_MADE_BY_TOOLS = frozenset({"__pycache__", "node_modules"})


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
        max_bytes: The most that a file may have, and unpack to.

    Raises:
        InputError: If a path does not exist or nobody knows the encoding.
    """
    paths = list(paths)
    refuse_unknown_encoding(encoding)
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
        max_bytes: The most that a file may have, and unpack to.
    """
    if file.skipped or file.error is not None:
        return file
    try:
        return _read(file, encoding, max_bytes)
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


def _found(paths: list[str | Path], include: Sequence[str], exclude: Sequence[str]) -> Iterator[FileOutcome]:
    seen: dict[str, str] = {}
    for path in paths:
        if str(path) == STDIN:
            files = [FileOutcome("stdin", STDIN, is_named=True)]
        elif Path(path).is_dir():
            files = _folder(Path(path), Patterns(include), Patterns(exclude))
        else:
            files = [FileOutcome(_as_id(Path(path).name), str(path), is_named=True)]
        for file in files:
            yield _unless_taken(file, seen)


def _folder(root: Path, include: Patterns, exclude: Patterns) -> list[FileOutcome]:
    files = sorted(_walk(root, include, exclude), key=lambda file: file.id)
    if all(file.skipped for file in files):
        nothing = InputError(
            f"{root}: expected files to read, got none.",
            f"Known are {' '.join(READERS)} and all other files of text; or name the files one by one.",
        )
        files.append(FileOutcome(str(root), str(root), error=nothing))
    return files


def _walk(root: Path, include: Patterns, exclude: Patterns) -> Iterator[FileOutcome]:
    broken: list[FileOutcome] = []

    def note(error: OSError) -> None:
        path = str(error.filename)
        broken.append(FileOutcome(_as_id(os.path.relpath(path, root)), path, error=_unreadable(path, error)))

    for folder, below, names in os.walk(root, onerror=note):
        for name in list(below):
            path = Path(folder, name)
            reason = _why_not_folder(path) or _why_not(path.relative_to(root).as_posix(), None, exclude)
            if reason:
                below.remove(name)
                yield FileOutcome(_as_id(path.relative_to(root).as_posix()), str(path), skipped=reason)
        for name in names:
            path = Path(folder, name)
            place = path.relative_to(root).as_posix()
            reason = _why_not(place, include, exclude) or _why_not_file(path)
            yield FileOutcome(_as_id(place), str(path), skipped=reason)
    yield from broken


def _why_not(place: str, include: Patterns | None, exclude: Patterns) -> str:
    """Return why a file or folder is not wanted, by its path in the folder; empty if it is."""
    if exclude.match(place):
        return "excluded"
    return "not included" if include and not include.match(place) else ""


def _why_not_folder(path: Path) -> str:
    if path.name in _VERSION_CONTROL:
        return "version control"
    if path.name in _MADE_BY_TOOLS:
        return "made by a tool"
    if path.name.startswith("."):
        return "hidden"
    return "a link to a folder" if path.is_symlink() else ""


def _why_not_file(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():  # a pipe or a socket inside a folder would block
        return "a link to nothing" if path.is_symlink() and not path.exists() else "no regular file"
    return unread_kind(path.name)


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
    return file


def _read(file: FileOutcome, encoding: str | None, max_bytes: int) -> FileOutcome:
    source = FileBytes(file.path, _bytes(file.path, max_bytes), encoding, max_bytes)
    if not file.is_named and is_unread(source):
        return replace(file, skipped="binary data")
    read = read_text(source)
    if not read.text.strip():
        if not file.is_named:
            return replace(file, skipped="empty")
        raise InputError(f"{file.path}: expected text, got an empty file.", "Leave the file out.")
    places = to_metadata(read.sections)
    path = _as_id(file.path)
    metadata = {"source": path, **({"title": read.title} if read.title else {}), **({PLACES: places} if places else {})}
    notes = [read.note, "the file's name is in other bytes than Unicode" if path != file.path else ""]
    return replace(file, document=Document(file.id, read.text, metadata), note="; ".join(filter(None, notes)))


def _bytes(path: str, max_bytes: int) -> bytes:
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(path).open("rb") as opened:
                data = opened.read(max_bytes + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > max_bytes:
        raise too_large(path, max_bytes, unpacked=False)
    return data


def _as_id(path: str) -> str:
    """Return a path as Unicode; bytes of its that are none become escapes, so that the id is stable and unique."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(
        f"{path}: expected a readable file, got: {error.strerror}.", "Check the path and its permissions."
    )
