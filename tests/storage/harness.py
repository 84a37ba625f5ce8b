"""All storage tests at full size, with counts: `python tests/storage/harness.py [NAME ...]`.

Names: kills, crashes, faults, flips, fuzz; all without one. It needs gcc and Linux for crashes and faults. The exit
status is 1 if anything was lost, wrong, or raised an error that is not this library's.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import shim

RAM = Path("/dev/shm")  # noqa: S108 - only its own temporary folder is made there


def kills(folder: Path) -> Counter[str]:
    from kills import kill

    return kill(folder, kills=200)


def crashes(folder: Path) -> Counter[str]:
    from crash_states import enumerate_states

    return enumerate_states(folder)


def faults(folder: Path) -> Counter[str]:
    from faults import inject

    return inject(folder, every=5)


def flips(folder: Path) -> Counter[str]:
    from flips import build, flip, flip_log

    forms = ("native", "k4v3")
    for storage in forms:
        build(folder / storage / "good", storage)
    processes = os.cpu_count() or 1
    with ProcessPoolExecutor(processes) as pool:
        parts = [
            pool.submit(flip, folder / storage, every=processes, first=number)
            for storage in forms
            for number in range(processes)
        ]
        found = [part.result() for part in parts]
    return sum(found, flip_log(folder / "log", every=97))


def fuzz(folder: Path) -> Counter[str]:
    from fuzz import fuzz

    return fuzz(folder, inputs=120_000)


PARTS: dict[str, Callable[[Path], Counter[str]]] = {
    "kills": kills,
    "crashes": crashes,
    "faults": faults,
    "flips": flips,
    "fuzz": fuzz,
}


def main(names: list[str]) -> int:
    failed = 0
    for name in names or PARTS:
        if name in ("crashes", "faults") and not shim.can_build():
            sys.stdout.write(f"{name}: left out, they need Linux and gcc\n")
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as folder:
            counts = PARTS[name](Path(folder) / "part")
        failed += sum(count for what, count in counts.items() if what.startswith("FAILED"))
        sys.stdout.write(f"{name} ({time.monotonic() - started:.0f} s)\n")
        for what, count in counts.items():
            sys.stdout.write(f"{count:9d} {what}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{failed} failed\n")
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
