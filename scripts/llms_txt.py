"""Write llms.txt, the list of pages for programs that read documentation; with --check, fail if it is stale."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from generated import keep

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "llms.txt"


def render() -> str:
    """Return the summary that opens README.md, and the pages that docs/index.md lists, with paths from the root."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    summary, rest = readme.split("\n## ", 1)[0].split("\n\n", 2)[1:]
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split("\n", 1)[1]
    paths = re.sub(r"\]\((?!\.\./)", "](docs/", index).replace("](../", "](")
    return f"# memrecall-kv\n\n> {' '.join(summary.split())}\n\n{rest.strip()}\n{paths}"


if __name__ == "__main__":
    sys.exit(keep(TARGET, render()))
