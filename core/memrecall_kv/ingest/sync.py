"""A folder's documents in a bank, kept as the folder is: added, replaced, and removed when their files are gone.

What a folder put into a bank is written in the documents' metadata. Nothing else of the bank is ever replaced or
removed, and a document goes only if the file system says that its file is not there: a file that cannot be read, that
is left out by a pattern or that lies below an unreadable folder keeps its document.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.metadata import repaired
from memrecall_kv.errors import InputError, MemRecallError
from memrecall_kv.ingest.files import find_files, read_file
from memrecall_kv.ingest.outcome import FileOutcome
from memrecall_kv.types import Document, IngestReport

SYNCED_FROM = "synced_from"
"""The key of a document's metadata that says which folder put it there, and as which file."""

Ingest: TypeAlias = Callable[[Iterable[Document]], IngestReport]
"""Compresses documents into the bank that is synced."""

State: TypeAlias = tuple[int, ...]
"""By what a file's change is noticed without reading it; empty if it cannot be looked at."""


class Action(StrEnum):
    """What becomes of a file or of its document."""

    ADD = "add"
    REPLACE = "replace"
    REMOVE = "remove"
    SAME = "unchanged"
    KEEP = "keep"
    SKIP = "skip"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one file or document.

    Attributes:
        id: The document's id: the file's path relative to the folder.
        action: `KEEP` is a document whose file was not read this time; `SKIP` a file that is passed over; `FAIL` a
            file that cannot be read or stored, whose document stays as it is.
        reason: Why; empty if the action says it all.
        characters: Of the text to be added or to replace another.
        error: What is wrong, if it failed.
    """

    id: str
    action: Action
    reason: str = ""
    characters: int = 0
    error: MemRecallError | None = None


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did, or would do.

    Attributes:
        changes: One for each file, in the order of ids, and after them one for each document without a file.
        ingested: What was compressed; nothing of a plan.
    """

    changes: tuple[Change, ...]
    ingested: IngestReport = field(default_factory=IngestReport)

    @property
    def problems(self) -> list[MemRecallError]:
        """Return what went wrong."""
        return [change.error for change in self.changes if change.error is not None]

    def count(self, action: Action) -> int:
        """Return how many changes there are of a kind."""
        return sum(change.action is action for change in self.changes)


@dataclass
class _Pass:
    """One pass over the folder: what was found so far, and which new document has which text."""

    changes: list[Change] = field(default_factory=list)
    added: dict[bytes, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)


class FolderSync:
    """Brings a bank to the state of a folder; again and again if it is kept.

    Args:
        folder: Where the files are.
        bank: Directory of the bank. It may lie inside the folder and is no part of it.
        name: What the bank remembers the folder by; its absolute path if `None`.
        include: Patterns of the files to read, as `find_files` takes them.
        exclude: Patterns of what to leave out.
        encoding: Of the text files, as `read_file` takes it.
        remove_all: Remove the folder's documents even if none of their files is left, or the folder is gone.

    Raises:
        InputError: If the folder is none, is not there, or is a bank.
    """

    def __init__(
        self,
        folder: str | Path,
        bank: str | Path,
        *,
        name: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        encoding: str | None = None,
        remove_all: bool = False,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.name = repaired(name or str(self.folder))
        self._bank = Path(bank).resolve()
        self._include, self._exclude, self._encoding = include, exclude, encoding
        self._remove_all = remove_all
        self._read: dict[str, State] = {}  # files that were read and stored, as they were then
        self._refuse_other_places()

    def plan(self, bank: MemoryBank | None) -> SyncReport:
        """Return what `run` would do; files are read and nothing is changed.

        Args:
            bank: Open for reading; `None` if it is still to be created.
        """
        found = _Pass()
        for _ in self._documents(bank, found):
            pass
        return SyncReport((*found.changes, *self._gone(bank, found)))

    def idle(self, bank: MemoryBank) -> SyncReport | None:
        """Return the report of a sync that has nothing to do; `None` if there is something, told by the first of it.

        Args:
            bank: Open for reading.
        """
        found, deferred = _Pass(), bank.deferred_documents()
        for document in self._documents(bank, found):
            if found.changes[-1].action is not Action.SAME or document.id in deferred:
                return None
        gone = self._gone(bank, found)
        if any(change.action is Action.REMOVE for change in gone):
            return None
        self._read = found.states
        return SyncReport((*found.changes, *gone))

    def run(self, bank: MemoryBank, ingest: Ingest) -> SyncReport:
        """Add, replace and remove. Interrupt at will: the same call goes on where it stopped.

        What is new comes first: a file that was only renamed finds the blocks of its text and compresses nothing.

        Args:
            bank: Open for writing.
            ingest: Compresses documents into it.

        Raises:
            InputError: If the folder is not there.
            BankError: If the bank cannot be written; nothing acknowledged is lost.
        """
        found = _Pass()
        ingested = ingest(self._documents(bank, found))
        gone = self._gone(bank, found)
        for change in gone:
            if change.action is Action.REMOVE:
                bank.delete(change.id)
        self._read = found.states
        return SyncReport((*found.changes, *gone), ingested)

    def look(self) -> dict[str, State] | None:
        """Return the state of every file that a sync would read; `None` if the folder is not there."""
        try:
            return {file.path: _state(file.path) for file in self._files()}
        except InputError:
            return None

    # -- inside -------------------------------------------------------------------------------------------

    def _refuse_other_places(self) -> None:
        if (self.folder / CATALOGUE).exists() or self.folder == self._bank:
            raise InputError(
                f"{self.folder}: expected a folder of documents, got a bank.",
                "Name the folder first and the bank after it: memrecall-kv sync FOLDER BANK.",
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(
                f"{self.folder}: expected a folder, got a file.", "Name its folder, or add the file with ingest."
            )
        if not self._remove_all:
            self._files()

    def _files(self) -> Iterator[FileOutcome]:
        """Return what is in the folder, the bank's own files left out.

        Raises:
            InputError: If the folder is not there, at once.
        """
        if not self.folder.is_dir():
            if self._remove_all and not self.folder.exists():
                return iter(())
            raise InputError(
                f"{self.folder}: expected a folder, got nothing there. Its documents stay in the bank.",
                "Check the path, and whether it is mounted; if they are to go, add --remove-all.",
            )
        found = find_files([self.folder], include=self._include, exclude=self._exclude)
        return (file for file in found if Path(file.path) != self.folder and not self._is_of_bank(file.path))

    def _is_of_bank(self, path: str) -> bool:
        return Path(path).is_relative_to(self._bank)

    def _documents(self, bank: MemoryBank | None, found: _Pass) -> Iterator[Document]:
        """Yield the documents to be stored, and write down what becomes of every file."""
        for file in self._files():
            state = _state(file.path)  # before it is read: what changes meanwhile is noticed the next time
            if state and self._read.get(file.path) == state and bank is not None and self._owns(bank, file.id):
                found.states[file.path] = state
                found.changes.append(Change(file.id, Action.SAME))
                continue
            outcome = read_file(file, encoding=self._encoding)
            if outcome.document is None:
                found.changes.append(_unread(outcome))
                continue
            document = self._signed(outcome.document)
            change = self._change(bank, document, outcome.note)
            found.changes.append(change)
            if change.action is Action.ADD:
                found.added.setdefault(_digest(document.text), document.id)
            if change.action is not Action.FAIL:
                found.states[file.path] = state
                yield document

    def _signed(self, document: Document) -> Document:
        return replace(document, metadata={**document.metadata, SYNCED_FROM: self._signature(document.id)})

    def _signature(self, doc_id: str) -> dict[str, str]:
        # the file's name too: whoever copies a document's metadata to another one makes no document of this folder
        return {"folder": self.name, "file": doc_id}

    def _owns(self, bank: MemoryBank, doc_id: str) -> bool:
        return doc_id in bank and bank.metadata(doc_id).get(SYNCED_FROM) == self._signature(doc_id)

    def _change(self, bank: MemoryBank | None, document: Document, note: str) -> Change:
        if bank is None or document.id not in bank:
            return Change(document.id, Action.ADD, note, len(document.text))
        if bank.holds(document):
            return Change(document.id, Action.SAME, note)
        stored = bank.document(document.id)
        if self._owns(bank, document.id) or _is_of_file(stored, document):
            if stored.text == document.text:
                return Change(document.id, Action.REPLACE, note or "only its metadata")
            return Change(document.id, Action.REPLACE, note, len(document.text))
        owner = stored.metadata.get(SYNCED_FROM)
        by = f"the folder {owner.get('folder')!r}" if isinstance(owner, dict) else "something else"
        error = InputError(
            f"{document.metadata['source']}: the bank's document {document.id!r} was put there by {by}. It stays.",
            "Rename the file, use another bank, delete the document first, or, if that is this very folder by another "
            "path, name it with --name.",
        )
        return Change(document.id, Action.FAIL, "the bank holds another document of this id", error=error)

    def _gone(self, bank: MemoryBank | None, found: _Pass) -> list[Change]:
        """Return what becomes of the folder's documents whose files were not found."""
        if bank is None:
            return []
        owned = bank.ids(lambda doc_id, metadata: metadata.get(SYNCED_FROM) == self._signature(doc_id))
        new = {change.id for change in found.changes if change.action is Action.ADD}
        before = [doc_id for doc_id in owned if doc_id not in new]
        present = {change.id for change in found.changes}
        gone = [self._without_file(bank, doc_id, found) for doc_id in before if doc_id not in present]
        lost = [change for change in gone if change.action is Action.REMOVE and not change.reason]
        if self._remove_all or len(lost) < max(len(before), 1) or (len(lost) == 1 and found.changes):
            return gone
        return [*(replace(change, action=Action.KEEP, reason="its file is gone") for change in gone), self._empty(lost)]

    def _empty(self, lost: Sequence[Change]) -> Change:
        error = InputError(
            f"{self.folder}: expected to find some of the {len(lost)} documents that it put into the bank, found none. "
            "They stay.",
            "Check whether it is mounted; if they are to go, add --remove-all.",
        )
        return Change(str(self.folder), Action.FAIL, "nothing of what it once held is left", error=error)

    def _without_file(self, bank: MemoryBank, doc_id: str, found: _Pass) -> Change:
        if not _is_gone(self.folder / doc_id):
            return Change(doc_id, Action.KEEP, "its file is there, but was not read this time")
        renamed = found.added.get(_digest(bank.document(doc_id).text))
        return Change(doc_id, Action.REMOVE, f"renamed to {renamed}" if renamed else "")


def _unread(outcome: FileOutcome) -> Change:
    if outcome.error is None:
        return Change(outcome.id, Action.SKIP, outcome.skipped)
    return Change(outcome.id, Action.FAIL, "cannot be read", error=outcome.error)


def _state(path: str) -> State:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _is_gone(path: Path) -> bool:
    """Return whether the file system says that there is no such file; one that cannot say is no proof."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_of_file(stored: Document, document: Document) -> bool:
    """Return whether a stored document was made from this file by `ingest`; of a relative path its text tells."""
    source, ours = stored.metadata.get("source"), document.metadata.get("source")
    if not isinstance(source, str) or stored.metadata.get(SYNCED_FROM) is not None:
        return False
    is_same = str(Path(source).resolve()) == ours
    return is_same and (Path(source).is_absolute() or stored.text == document.text)


def _digest(text: str) -> bytes:
    return hashlib.sha256(repaired(text).encode()).digest()
