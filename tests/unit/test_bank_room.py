"""Files that may not grow: a limit on their size, which SQLite takes for a failing disk, is told as a full one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from bank_samples import FINGERPRINT, put
from forked import in_child
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE, BankDirectory
from memrecall_kv.types import Document

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def within(limit: int, path: Path) -> str:
    """Return how many documents a child stores whose files may have so many bytes, and what stops it."""
    import resource

    stored = 0

    def work() -> None:
        nonlocal stored
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with MemoryBank.open(path, fingerprint=FINGERPRINT) as bank:
            while True:
                put(bank, Document(f"new {stored}", f"text {stored} " * 20))
                (path.parent / "stored").write_text(str(stored := stored + 1))

    (path.parent / "stored").write_text("0")
    return in_child(work)


@needs_fork
@pytest.mark.parametrize("limit", [1, 100, 512, 4096, 5000, 20_000, 32_768, 50_000, 65_536, 80_000, 120_000, 200_000])
def test_a_bank_whose_files_may_not_grow_is_full_and_stays_as_it_was(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "bank"
    assert within(limit, path).startswith("BankFullError")
    stored = int((tmp_path / "stored").read_text())
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as bank:
        bank.verify()
        assert [document.id for document in bank.documents()] == [f"new {number}" for number in range(stored)]
        put(bank, Document("after", "there is room again"))
        bank.verify()


@needs_fork
def test_a_bank_that_is_there_keeps_what_it_holds_when_its_files_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as bank:
        put(bank, Document("old", "text of the old one " * 50))
    for limit in (1, 4096, 40_000, 90_000):
        assert within(limit, path).startswith("BankFullError")
        with MemoryBank.open(path, read_only=True) as bank:
            bank.verify()
            assert "old" in bank


def test_a_journal_that_goes_while_it_is_looked_at_is_nobodys_concern(tmp_path: Path) -> None:
    MemoryBank.open(tmp_path, fingerprint=FINGERPRINT).close()
    journal, is_over = tmp_path / f"{CATALOGUE}-journal", threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            journal.touch()
            journal.unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(3000):
            BankDirectory(tmp_path)
    finally:
        is_over.set()
        thread.join()
