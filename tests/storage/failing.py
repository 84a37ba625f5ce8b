"""Run the steps again and again, each time with another call that fails: `python failing.py FOLDER EVERY`.

It runs behind `calls.c`. A step that fails may be done or not; whatever the bank says then, it must keep to.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from memrecall_kv.bank import MemoryBank
from memrecall_kv.errors import MemRecallError
from memrecall_kv.types import Document
from storage_trace import BUDGET, LARGE, NEW, OLD, OTHER, WrongError, content, goes_on, open_bank, put

State = dict[str, Document]
Change = Callable[[State], State]


def _putting(document: Document) -> tuple[Callable[[MemoryBank], object], Change]:
    return (lambda bank: put(bank, document)), (lambda state: {**state, document.id: document})


def _deleting(doc_id: str) -> tuple[Callable[[MemoryBank], object], Change]:
    def delete(bank: MemoryBank) -> None:
        if doc_id in bank:
            bank.delete(doc_id)

    return delete, lambda state: {key: value for key, value in state.items() if key != doc_id}


_COMPACTING: tuple[Callable[[MemoryBank], object], Change] = (lambda bank: bank.compact(), lambda state: state)
_STEPS = [
    *(_putting(document) for document in (OLD, OTHER, NEW)),
    _COMPACTING,
    _putting(LARGE),
    _deleting("a"),
    _COMPACTING,
    _putting(OLD),
    _deleting("large"),
    _COMPACTING,
]
_WAYS = [
    (errno.EIO, False, False),
    (errno.ENOSPC, False, False),
    (errno.EIO, True, False),
    (errno.ENOSPC, True, False),
    (errno.EIO, False, True),
]
"""What a call fails with, whether all calls after it do too, and whether calls that read are among them."""
_NEVER = 10**9
_MENDED = len(_STEPS) - 4
"""From this step on, the disk that fails always works again."""


class Run:
    """One run with one call that fails."""

    def __init__(self, calls: ctypes.CDLL, folder: Path, *, always: bool) -> None:
        self._calls = calls
        self._folder = folder
        self._always = always
        self._allowed: list[State] = [{}]
        self.errors = 0
        self.calls = 0

    def go(self, number: int, code: int) -> None:
        """Fail the call of a number; raise if the bank is not what it may be."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._calls.calls_fail(number, code, int(self._always))
        bank = self._opened()
        for place, (step, change) in enumerate(_STEPS):
            if self._always and place == _MENDED:
                self._calls.calls_fail(-1, 0, 0)
            done = self._attempt(lambda step=step: step(bank))
            changed = [change(state) for state in self._allowed]
            self._allowed = changed if done else self._allowed + [s for s in changed if s not in self._allowed]
            self._compare(bank)
        self._attempt(bank.close)
        self.calls = self._calls.calls_made()
        self._calls.calls_fail(-1, 0, 0)
        with open_bank(self._folder, BUDGET) as again:
            self._compare(again)
            goes_on(again)

    def _opened(self) -> MemoryBank:
        for _ in range(3):
            try:
                return open_bank(self._folder, BUDGET)
            except MemRecallError:
                self.errors += 1
        self._calls.calls_fail(-1, 0, 0)
        return open_bank(self._folder, BUDGET)

    def _attempt(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except MemRecallError:
            self.errors += 1
            return False
        return True

    def _compare(self, bank: MemoryBank) -> None:
        try:
            found = {document.id: document for document in content(bank)}
        except MemRecallError:
            if os.environ.get("CALLS_READS") or self._always:
                return  # a disk that cannot be read or opened says so
            raise
        if found not in self._allowed:
            raise WrongError(f"it holds {sorted(found)}, allowed are {[sorted(state) for state in self._allowed]}")
        self._allowed = [found]


def main(folder: Path, every: int) -> Counter[str]:
    calls = ctypes.CDLL(os.environ["LD_PRELOAD"])
    counts: Counter[str] = Counter()
    for code, always, reads in _WAYS:
        os.environ.pop("CALLS_READS", None)
        if reads:
            os.environ["CALLS_READS"] = "1"
        whole = Run(calls, folder, always=False)
        whole.go(_NEVER, code)
        counts["calls that could fail"] += whole.calls
        for number in range(1, whole.calls + 1, every):
            run = Run(calls, folder, always=always)
            try:
                run.go(number, code)
            except Exception as error:
                calls.calls_fail(-1, 0, 0)
                what = f"call {number}, {errno.errorcode[code]}, always {always}, reads {reads}"
                counts[f"FAILED {what}: {type(error).__name__}: {error}"] += 1
            counts["faults"] += 1
            counts["faults that were told"] += run.errors > 0
    return counts


if __name__ == "__main__":
    for what, count in main(Path(sys.argv[1]), int(sys.argv[2])).items():
        sys.stdout.write(f"{count} {what}\n")
