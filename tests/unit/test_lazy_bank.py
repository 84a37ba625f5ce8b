"""The bank behind a host adapter: where it was named, never waited for by who reads, and each process's own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from forked import in_child
from memrecall_kv import MemRecall
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Document

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(scope="module")
def memory() -> MemRecall:
    return tiny_memory()


def lazy(bank: str | Path | None, memory: MemRecall) -> LazyBank:
    return LazyBank(bank, LazyMemory(memory, None, "cpu"))


def ids(bank: LazyBank) -> list[str]:
    return [document.id for document in bank.get().documents()]


def test_a_relative_path_means_what_it_meant_when_the_adapter_was_made(
    memory: MemRecall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        lazy("my.bank", memory).ingest([Document(name, f"text of {name}")])
    monkeypatch.chdir(tmp_path / "a")
    bank = lazy("my.bank", memory)
    monkeypatch.chdir(tmp_path / "b")
    assert ids(bank) == ["a"]
    bank.ingest([Document("new", "new text")])
    assert ids(bank) == ["a", "new"]
    bank.close()
    other = lazy(tmp_path / "b" / "my.bank", memory)
    assert ids(other) == ["b"]
    other.close()


@pytest.mark.parametrize("is_temporary", [False, True], ids=["a directory", "a temporary one"])
def test_who_reads_does_not_wait_for_who_writes(memory: MemRecall, tmp_path: Path, is_temporary: bool) -> None:
    bank = lazy(None if is_temporary else tmp_path / "bank", memory)
    bank.ingest([Document("a", "a text")])
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        with bank.writing() as writable:
            memory.ingest(writable, [Document("b", "b text")])
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    assert entered.wait(60)
    assert ids(bank) == ["a", "b"]  # while the other still writes
    leave.set()
    thread.join()
    bank.close()


def test_a_temporary_bank_is_there_when_it_is_read_first_and_gone_when_it_is_closed(
    memory: MemRecall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bank = lazy(None, memory)
    assert ids(bank) == []
    bank.ingest([Document("a", "a text")])
    assert ids(bank) == ["a"]
    bank.close()
    assert list(tmp_path.iterdir()) == []
    bank.ingest([Document("b", "b text")])
    assert ids(bank) == ["b"]
    bank.close()
    assert list(tmp_path.iterdir()) == []


@needs_fork
@pytest.mark.parametrize("is_temporary", [False, True], ids=["a directory", "a temporary one"])
def test_a_servers_workers_open_their_own(memory: MemRecall, tmp_path: Path, is_temporary: bool) -> None:
    bank = lazy(None if is_temporary else tmp_path / "bank", memory)
    bank.ingest([Document("a", "a text")])
    assert ids(bank) == ["a"]

    def work() -> list[str]:
        before = ids(bank)
        with bank.writing() as writable:
            writable.delete("a")
        bank.close()
        return before

    assert in_child(work) == "['a']"
    assert bank.get().path.exists()
    assert ids(bank) == []
    bank.close()


@needs_fork
def test_a_fork_while_another_thread_writes_leaves_the_child_free(memory: MemRecall, tmp_path: Path) -> None:
    bank = lazy(tmp_path / "bank", memory)
    bank.ingest([Document("a", "a text")])
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        with bank.writing():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    assert entered.wait(60)
    assert in_child(lambda: ids(bank)) == "['a']"
    leave.set()
    thread.join()
    bank.close()


def test_forgetting_leaves_nothing_in_the_files(tmp_path: Path) -> None:
    lazy = LazyBank(tmp_path / "bank", LazyMemory(tiny_memory(), None, "auto"))
    documents = [Document(f"d{number}", f"SECRET{number:04d} " * 20, {"keep": number % 2}) for number in range(40)]
    lazy.ingest(documents)
    assert len(lazy.get()) > 0
    assert lazy.forget(lambda _, metadata: not metadata["keep"]) == 20
    data = b"".join(path.read_bytes() for path in (tmp_path / "bank").iterdir())
    assert not [number for number in range(0, 40, 2) if f"SECRET{number:04d}".encode() in data]
    with lazy.writing() as writable:
        stats = writable.stats()
    assert stats.file_bytes == stats.live_bytes
    assert lazy.forget(lambda doc_id, _: doc_id == "d1", compact=False) == 1
    with lazy.writing() as writable:
        assert writable.stats().file_bytes > writable.stats().live_bytes
    lazy.close()


def test_a_deferring_bank_is_read_and_written_by_threads_at_once(tmp_path: Path) -> None:
    memory = tiny_memory()
    lazy = LazyBank(tmp_path / "bank", LazyMemory(memory, None, "auto"), defer=True)
    lazy.ingest([Document(f"a{number}", f"text number {number}") for number in range(8)])
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(3):
                assert memory.recall(lazy.get(), "which number?", top_k=2)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(10):
        lazy.ingest([Document(f"b{number}", f"another text {number}")])
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(lazy.get().documents()) == 18
    lazy.close()
