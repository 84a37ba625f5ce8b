"""Texts in a temporary file, found by number: what a long context needs instead of memory."""

from __future__ import annotations

import json
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator

from memrecall_kv.types import Chunk


class Shelf:
    """A list of texts of which only the places are in memory. The file goes with the object.

    Args:
        texts: What is put on the shelf, one after the other.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the shelf is in use
        self._starts = array("Q", [0])
        self._lock = threading.Lock()
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._starts[number], self._starts[number + 1]
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start).decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self)):
            yield self[number]

    def add(self, text: str) -> None:
        """Put a text at the end."""
        data = text.encode("utf-8")
        with self._lock:
            self._file.seek(self._starts[-1])
            self._file.write(data)
        self._starts.append(self._starts[-1] + len(data))

    @property
    def num_bytes(self) -> int:
        """Return the size of all texts."""
        return self._starts[-1]

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __del__(self) -> None:
        self._file.close()


class ChunkShelf:
    """Chunks on a shelf.

    Args:
        chunks: In order.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self.num_tokens = 0
        self._rows = Shelf(self._packed(chunks))

    def _packed(self, chunks: Iterable[Chunk]) -> Iterator[str]:
        for chunk in chunks:
            self.num_tokens += chunk.num_tokens
            yield json.dumps([chunk.doc_id, chunk.index, chunk.start, chunk.end, chunk.text, chunk.num_tokens])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Chunk:
        return Chunk(*json.loads(self._rows[number]))

    def texts(self) -> Iterator[str]:
        """Yield the chunks' texts."""
        for row in self._rows:
            yield json.loads(row)[4]

    @property
    def num_bytes(self) -> int:
        """Return the size of the file."""
        return self._rows.num_bytes
