"""Pages that scripts write from what is elsewhere, and tests keep up to date."""

from __future__ import annotations

import sys
from pathlib import Path


def keep(target: Path, text: str) -> int:
    """Write a page; with `--check` on the command line only look, and return 1 if it is stale, else 0."""
    if sys.argv[1:] != ["--check"]:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{target.name} is stale: run make docs\n")
    return 1
