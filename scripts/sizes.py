"""Print the longest files, classes and functions of the packages, and how long they are in the middle.

python scripts/sizes.py 20
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGES = ("core/memrecall_kv", "llama_index_memrecall", "langchain_memrecall")
SHOWN = 10


class Size(NamedTuple):
    """Lines of one thing.

    Attributes:
        kind: "file", "class" or "function".
        lines: From its first line to its last; decorators do not count.
        where: File and name.
    """

    kind: str
    lines: int
    where: str


def main() -> int:
    """Print as many of each kind as the first argument says."""
    count = int(sys.argv[1]) if sys.argv[1:] else SHOWN
    found = list(sizes())
    for kind in ("file", "class", "function"):
        ranked = sorted((size for size in found if size.kind == kind), key=lambda size: -size.lines)
        middle = statistics.median(size.lines for size in ranked)
        sys.stdout.write(f"{len(ranked)} of kind {kind}, {middle:.0f} lines in the median; the longest:\n")
        sys.stdout.writelines(f"{size.lines:>5} {size.where}\n" for size in ranked[:count])
    return 0


def sizes() -> Iterator[Size]:
    """Yield every file, class and function of the packages."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        yield Size("file", text.count("\n"), name)
        yield from sizes_in(text, name)


def sizes_in(text: str, name: str) -> Iterator[Size]:
    """Yield the classes and functions of a file's text, those within others too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield Size(kind, (node.end_lineno or node.lineno) - node.lineno + 1, f"{name}:{node.lineno} {node.name}")


if __name__ == "__main__":
    sys.exit(main())
