"""Rows of a run in a file: one JSON object a line, each under a key of its own, so that a run can go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memrecall_kv.errors import InputError

ROWS = "rows.jsonl"
"""Name of the file in the folder of a run."""


class Ledger:
    """A file of rows that only grows.

    A last line that was cut off by an interruption is dropped; of rows with the same key the first counts.

    Args:
        path: The file; made if there is none.

    Raises:
        InputError: If a line before the last is no row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._read()

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row with a `key`, unless there is one with it; it is in the file when this returns."""
        with self._lock:
            if row["key"] in self._rows:
                return
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._rows[row["key"]] = row

    def _read(self) -> None:
        data = self._path.read_bytes() if self._path.exists() else b""
        whole = 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            row = _parse(line)
            if row is not None:
                self._rows.setdefault(row["key"], row)
                whole += len(line)
            elif whole + len(line) == len(data):
                with self._path.open("r+b") as file:
                    file.truncate(whole)
            else:
                raise InputError(
                    f"{self._path}, line {number}: expected a row of a run, got something else.",
                    "Take the line out, or name another folder with --out.",
                )


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a row, or nothing if the line is not whole."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and "key" in row and line.endswith(b"\n")
    return row if whole else None
