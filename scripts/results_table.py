"""Write the table of docs/results.md from the rows of the evaluation; with --check, fail if it is stale."""

from __future__ import annotations

import sys
from pathlib import Path

from generated import keep
from memrecall_kv.evaluate.ledger import ROWS, Ledger
from memrecall_kv.evaluate.measures.summary import summarize
from memrecall_kv.evaluate.measures.tables import overview

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "benchmarks" / "results" / "table"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def main() -> int:
    """Return 1 if `--check` was given and the table is stale, else 0."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.stderr.write(f"{PAGE.name} lacks {BEGIN} and {END}\n")
        return 1
    table = overview(summarize(Ledger(RESULTS / ROWS)), "ruler-hqa")
    return keep(PAGE, f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
