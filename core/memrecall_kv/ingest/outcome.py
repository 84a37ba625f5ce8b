"""What became of one file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from memrecall_kv.errors import MemRecallError
from memrecall_kv.types import Document


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """A file, folder or standard input, and whether it was read, skipped or could not be read.

    Attributes:
        id: The id of its document, had it been read: the path relative to the folder that was given.
        path: The path as reached, or `-`.
        document: What was read; `None` if it was skipped or could not be read.
        note: What the reader should know of how it was read, such as a guessed encoding; empty if nothing.
        skipped: Why it was passed over; empty if it was not.
        error: Why it could not be read; `None` if it was read or skipped.
        is_named: Whether the caller gave it by name instead of a folder; such a file is never skipped.
    """

    id: str
    path: str
    document: Document | None = None
    note: str = ""
    skipped: str = ""
    error: MemRecallError | None = None
    is_named: bool = False

    @property
    def is_read(self) -> bool:
        """Return whether there is a document."""
        return self.document is not None

    def failed(self, error: MemRecallError) -> FileOutcome:
        """Return the outcome of the same file when it cannot be read."""
        return replace(self, document=None, error=error)
