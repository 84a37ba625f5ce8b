"""What became of the files that a command was given: written down while they are read, and told at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import typer

from memrecall_kv.cli.show import safe
from memrecall_kv.errors import MemRecallError
from memrecall_kv.ingest.outcome import FileOutcome
from memrecall_kv.types import Document

_LISTED = 50
"""Files of one outcome and reason that are told one by one."""


@dataclass
class Reading:
    """Files on their way into a bank.

    Attributes:
        rows: One for each file so far: its id, path, outcome (`read`, `skipped` or `failed`), reason and note.
        problems: Why files could not be read.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    problems: list[MemRecallError] = field(default_factory=list)

    def documents(self, outcomes: Iterable[FileOutcome]) -> Iterator[Document]:
        """Yield the documents of files as they are read."""
        for outcome in outcomes:
            kind = "read" if outcome.is_read else "skipped" if outcome.skipped else "failed"
            reason = outcome.error.message if outcome.error is not None else outcome.skipped
            row = {"id": outcome.id, "path": outcome.path, "outcome": kind, "reason": reason, "note": outcome.note}
            self.rows.append(row)
            if outcome.error is not None:
                self.problems.append(outcome.error)
            if outcome.document is not None:
                yield outcome.document

    def tell(self) -> None:
        """Print each file that was read or skipped, and how many there are; those that failed are complained of."""
        seen: Counter[tuple[str, str]] = Counter()
        for row in self.rows:
            kind, why = row["outcome"], row["reason"] or row["note"]
            seen[kind, why] += 1
            if kind != "failed" and seen[kind, why] <= _LISTED:
                typer.echo(safe(f"  {kind:<8} {row['id']}{f' ({why})' * bool(why)}"))
        for (kind, why), count in seen.items():
            if kind != "failed" and count > _LISTED:
                typer.echo(safe(f"  {kind:<8} {count - _LISTED:,} more{f' ({why})' * bool(why)}; --json lists all"))
        counts = Counter(row["outcome"] for row in self.rows)
        typer.echo(f"Files: {counts['read']:,} read, {counts['skipped']:,} skipped, {counts['failed']:,} failed.")
