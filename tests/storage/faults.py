"""Every call that writes or syncs fails once, or from then on, with EIO or ENOSPC; every read fails once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import shim


def inject(folder: Path, *, every: int = 1) -> Counter[str]:
    """Run the steps with each n-th fault; return how many, and of which kind those were that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counter[str]()
    said = shim.run(shim.build(folder), "failing.py", folder / "bank", every, root=folder / "bank")
    for line in said.splitlines():
        count, what = line.split(" ", 1)
        counts[what] += int(count)
    return counts
