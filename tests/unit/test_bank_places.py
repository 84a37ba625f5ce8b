"""A bank is the directory, and the process, that it was opened in: nobody else's files are touched."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from bank_samples import FINGERPRINT, put
from forked import in_child
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import BankError, BankLockedError, BankMovedError, InputError
from memrecall_kv.types import Document

AT_ONCE = BankConfig(wait_seconds=0)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes others")


def make(path: Path, number: int) -> dict[str, bytes]:
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as bank:
        for place in range(number):
            put(bank, Document(f"{path.parent.name}{place}", f"text {place} of {path}"))
    return segments(path)


def segments(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.glob("seg-*")}


# -- places ---------------------------------------------------------------------------------------------------


def test_a_relative_path_means_what_it_meant_when_the_bank_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a" / "my.bank", 2)
    theirs = make(tmp_path / "b" / "my.bank", 9)
    monkeypatch.chdir(tmp_path / "a")
    with MemoryBank.open("my.bank", fingerprint=FINGERPRINT) as bank:
        monkeypatch.chdir(tmp_path / "b")
        assert len(bank.blocks(bank.chunks())) == len(bank.chunks())
        for document in bank.documents():
            bank.delete(document.id)
        assert bank.compact() > 0
        put(bank, Document("new", "new"))
        assert bank.path == tmp_path / "a" / "my.bank"
    assert segments(tmp_path / "b" / "my.bank") == theirs
    with MemoryBank.open(tmp_path / "a" / "my.bank") as bank:
        assert [document.id for document in bank.documents()] == ["new"]


CALLS: dict[str, Callable[[MemoryBank], object]] = {
    "put": lambda bank: put(bank, Document("new", "new")),
    "delete": lambda bank: bank.delete("p0"),
    "compact": lambda bank: bank.compact(),
    "read": lambda bank: bank.blocks(bank.chunks()),
    "verify": lambda bank: bank.verify(),
    "stats": lambda bank: bank.stats(),
}


@pytest.mark.parametrize("has_written", [False, True], ids=["before it wrote", "after it wrote"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_bank_that_was_replaced_under_a_server_is_left_alone(
    tmp_path: Path, call: Callable[[MemoryBank], object], has_written: bool
) -> None:
    make(tmp_path / "p" / "bank", 1)
    theirs = make(tmp_path / "p" / "new", 9)
    with MemoryBank.open(tmp_path / "p" / "bank", fingerprint=FINGERPRINT) as server:
        if has_written:
            put(server, Document("more", "more"))
        (tmp_path / "p" / "bank").rename(tmp_path / "p" / "old")
        (tmp_path / "p" / "new").rename(tmp_path / "p" / "bank")
        with pytest.raises(BankMovedError, match="replaced"):
            call(server)
    assert segments(tmp_path / "p" / "bank") == theirs
    with MemoryBank.open(tmp_path / "p" / "bank", fingerprint=FINGERPRINT) as bank:
        assert len(bank.documents()) == 9
        bank.verify()


def test_a_log_of_the_bank_that_came_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """The other bank's writer was killed: all it acknowledged last is in its log."""
    make(tmp_path / "bank", 1)
    with MemoryBank.open(tmp_path / "new", fingerprint=FINGERPRINT) as other:
        put(other, Document("d", "text"))
        shutil.copytree(tmp_path / "new", tmp_path / "killed")
    server = MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT)
    put(server, Document("more", "more"))
    (tmp_path / "bank").rename(tmp_path / "old")
    (tmp_path / "killed").rename(tmp_path / "bank")
    server.close()
    with MemoryBank.open(tmp_path / "bank") as bank:
        assert [document.id for document in bank.documents()] == ["d"]
    with MemoryBank.open(tmp_path / "old") as bank:
        assert [document.id for document in bank.documents()][1:] == ["more"]
        assert bank.verify() == len(bank.chunks())


def test_a_catalogue_that_was_put_back_from_a_backup_is_another(tmp_path: Path) -> None:
    make(tmp_path / "bank", 3)
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        shutil.copy(tmp_path / "bank" / CATALOGUE, tmp_path / "backup")
        before = segments(tmp_path / "bank")
        (tmp_path / "backup").rename(tmp_path / "bank" / CATALOGUE)
        with pytest.raises(BankMovedError):
            bank.compact()
    assert segments(tmp_path / "bank") == before


def test_files_that_only_look_like_segments_are_nobodys_concern(tmp_path: Path) -> None:
    make(tmp_path / "bank", 3)
    names = ("seg-backup.kvs", "seg-00000000 (1).kvs", "seg-99.kvs", "seg--1.kvs", "seg-00000007.kvs.tmp", ".DS_Store")
    for name in names:
        (tmp_path / "bank" / name).write_bytes(b"junk" * 10)
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        put(bank, Document("new", "new"))
        bank.delete("new")
        bank.compact()
        assert bank.verify() > 0
    assert [(tmp_path / "bank" / name).read_bytes() for name in names] == [b"junk" * 10] * len(names)


@pytest.mark.parametrize("path", [None, 7, "a\0b"])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(InputError, match="path of a bank"):
        MemoryBank.open(path, fingerprint=FINGERPRINT)  # type: ignore[arg-type]


def test_a_path_too_long_for_sqlite_says_so(tmp_path: Path) -> None:
    path = tmp_path / ("b" * 200) / ("c" * 200) / ("d" * 200)
    with pytest.raises(BankError, match="shorter than"):
        MemoryBank.open(path, fingerprint=FINGERPRINT)


# -- processes ------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_forked_process_cannot_use_the_bank_it_inherits(tmp_path: Path, call: Callable[[MemoryBank], object]) -> None:
    make(tmp_path / "p" / "bank", 1)
    with MemoryBank.open(tmp_path / "p" / "bank", fingerprint=FINGERPRINT) as bank:
        put(bank, Document("more", "more"))
        said = in_child(lambda: call(bank))
        assert said.startswith("BankError")
        assert "Open it again in this process" in said
        put(bank, Document("after", "after"))
        assert len(bank.documents()) == 3
    with MemoryBank.open(tmp_path / "p" / "bank") as again:
        assert len(again.documents()) == 3
        again.verify()


@needs_fork
def test_a_forked_process_opens_its_own_and_keeps_nobody_from_writing(tmp_path: Path) -> None:
    make(tmp_path / "p" / "bank", 2)
    bank = MemoryBank.open(tmp_path / "p" / "bank", fingerprint=FINGERPRINT)
    put(bank, Document("more", "more"))

    def work() -> str:
        with MemoryBank.open(bank.path, read_only=True) as own:
            return f"{len(own.blocks(own.chunks()))} {len(own.chunks())}"

    blocks, chunks = in_child(work).split()
    assert blocks == chunks
    waiting, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(waiting, 1)  # a worker that lives as long as its server
        os._exit(0)
    bank.close()
    with MemoryBank.open(bank.path, fingerprint=FINGERPRINT, config=AT_ONCE) as next_one:
        put(next_one, Document("next", "next"))
    os.close(go)
    os.waitpid(child, 0)


ENDING = """
import os, sys
sys.path.insert(0, sys.argv[2])
from bank_samples import FINGERPRINT, put
from memrecall_kv.bank import MemoryBank
from memrecall_kv.types import Document
bank = MemoryBank.open(sys.argv[1], fingerprint=FINGERPRINT)
put(bank, Document("before", "before"))
reading, writing = os.pipe()
if os.fork() == 0:
    os.read(reading, 1)
    bank.close()
    sys.exit(0)  # ends as any program does: what it holds is taken apart
bank.close()
if os.fork() == 0:
    other = MemoryBank.open(sys.argv[1], fingerprint=FINGERPRINT)
    put(other, Document("after", "after"))
    os._exit(9)  # killed: what it wrote is in the log
os.wait()
os.write(writing, b"go")
os.wait()
"""


@needs_fork
def test_a_child_that_ends_takes_no_log_with_it(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", ENDING, str(tmp_path / "b"), here], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with MemoryBank.open(tmp_path / "b") as bank:
        assert [document.id for document in bank.documents()] == ["before", "after"]
        bank.verify()


# -- the lock -------------------------------------------------------------------------------------------------


def test_a_second_writer_waits_for_the_first_one(tmp_path: Path) -> None:
    make(tmp_path / "bank", 1)
    lock = WriterLock(tmp_path / "bank", 0)
    lock.take()
    waited = threading.Event()

    def write() -> None:
        with MemoryBank.open(tmp_path / "bank", config=BankConfig(wait_seconds=60)) as bank:
            bank.delete(f"{tmp_path.name}0")
        waited.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not waited.wait(0.2)
    lock.release()
    assert waited.wait(60)
    thread.join()


def test_a_writer_that_waited_long_enough_says_who_is_in_the_way(tmp_path: Path) -> None:
    make(tmp_path / "bank", 1)
    with (
        WriterLock(tmp_path / "bank", 0),
        MemoryBank.open(tmp_path / "bank", config=BankConfig(wait_seconds=0.1)) as bank,
        pytest.raises(BankLockedError, match=rf"Another process \({os.getpid()}\).*wait_seconds"),
    ):
        bank.compact()


def test_a_lock_that_is_taken_away_stops_the_writer_that_held_it(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as first:
        put(first, Document("a", "a"))
        (tmp_path / "bank" / "writer.lock").unlink()
        with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as second:
            put(second, Document("b", "b"))
            for call in (lambda: put(first, Document("c", "c")), lambda: first.delete("a"), first.compact):
                with pytest.raises(BankError, match="removed or replaced"):
                    call()
            put(second, Document("d", "d"))
            assert second.verify() == 3


def test_an_interrupted_writer_leaves_no_transaction_open(tmp_path: Path) -> None:
    make(tmp_path / "bank", 2)
    with (
        closing(sqlite3.connect(tmp_path / "bank" / CATALOGUE, isolation_level=None)) as other,
        MemoryBank.open(tmp_path / "bank", config=BankConfig(wait_seconds=60)) as bank,
    ):
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            bank.delete(f"{tmp_path.name}0")
        other.execute("ROLLBACK")
        bank.delete(f"{tmp_path.name}0")
        assert len(bank.documents()) == 1


CREATE = """
import sys
from memrecall_kv.bank import MemoryBank
sys.stdin.read()
with MemoryBank.open(sys.argv[1], fingerprint={"backbone": "tiny"}) as bank:
    print(len(bank))
"""


def test_six_processes_create_one_bank(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CREATE, str(tmp_path / "deep" / "bank")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(6)]
    time.sleep(0.5)
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    for process in started:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == "0\n", process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def test_a_reader_of_the_same_bank_waits_for_no_ingest_in_another_thread(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        put(bank, Document("a", "a"))
        entered, leave = threading.Event(), threading.Event()

        def write() -> None:
            with bank._writing():
                entered.set()
                leave.wait(60)

        thread = threading.Thread(target=write)
        thread.start()
        assert entered.wait(60)
        assert len(bank.blocks(bank.chunks())) == 1  # while the other still writes
        leave.set()
        thread.join()


# -- places that may only be read -----------------------------------------------------------------------------


@contextmanager
def as_user(number: int) -> Iterator[None]:
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Return root's bank where everybody may look."""
    bank = tmp_path / "p" / "bank"
    make(bank, 2)
    for folder in (bank, *bank.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    return bank


@needs_root
def test_another_users_bank_is_read_and_nothing_is_left_in_it(theirs: Path) -> None:
    for mode in (0o755, 0o777):
        theirs.chmod(mode)
        before = sorted(file.name for file in theirs.iterdir())
        with as_user(65534), MemoryBank.open(theirs, read_only=True) as reader:
            assert reader.verify() > 0
        assert sorted(file.name for file in theirs.iterdir()) == before
        with as_user(65534), pytest.raises(BankError, match="open it with read_only"):
            MemoryBank.open(theirs)
        assert sorted(file.name for file in theirs.iterdir()) == before


@needs_root
def test_a_reader_of_another_users_bank_sees_what_is_written_later(theirs: Path) -> None:
    with as_user(65534):
        reader = MemoryBank.open(theirs, read_only=True)
        assert len(reader.documents()) == 2
    with MemoryBank.open(theirs, fingerprint=FINGERPRINT) as bank:
        put(bank, Document("new", "new"))
        with as_user(65534):
            assert len(reader.documents()) == 3
            assert len(reader.blocks(reader.chunks())) == len(reader.chunks())
    with MemoryBank.open(theirs, fingerprint=FINGERPRINT) as bank:
        put(bank, Document("newer", "newer"))
    with as_user(65534):
        assert [document.id for document in reader.documents()][2:] == ["new", "newer"]
        reader.close()
    assert {file.stat().st_uid for file in theirs.iterdir()} == {0}


@needs_root
def test_a_log_that_cannot_be_read_without_writing_is_told(theirs: Path, tmp_path: Path) -> None:
    with MemoryBank.open(theirs, fingerprint=FINGERPRINT) as bank:
        put(bank, Document("new", "new"))
        left = shutil.copytree(theirs, tmp_path / "p" / "left", ignore=shutil.ignore_patterns("*-shm"))
    with as_user(65534), pytest.raises(BankError, match="last changes are in the log"):
        MemoryBank.open(left, read_only=True)
    assert not (left / f"{CATALOGUE}-shm").exists()


@needs_root
def test_a_folder_without_rights_is_told(theirs: Path) -> None:
    theirs.chmod(0)
    with as_user(65534):
        for read_only in (True, False):
            with pytest.raises(BankError, match="may not read it"):
                MemoryBank.open(theirs, fingerprint=FINGERPRINT, read_only=read_only)
    theirs.chmod(stat.S_IRWXU)
