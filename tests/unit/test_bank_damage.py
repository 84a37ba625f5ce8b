"""Crashes, full disks and flipped bits: nothing acknowledged is lost, and damage is found."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from bank_samples import FINGERPRINT, chunks_of, put, same
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.catalogue import Catalogue
from memrecall_kv.bank.directory import CATALOGUE as NAME
from memrecall_kv.bank.directory import BankDirectory
from memrecall_kv.bank.files import FileLayer
from memrecall_kv.bank.segment import Place
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import (
    BankError,
    BankFormatError,
    BankFullError,
    BlockCorruptError,
)
from memrecall_kv.filters import Compare, Operator
from memrecall_kv.types import Document, Where


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "b.bank"


@pytest.fixture
def bank(path: Path) -> Iterator[MemoryBank]:
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as opened:
        yield opened


def test_a_newer_format_and_a_damaged_catalogue_are_refused(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "x"))
    bank.close()
    database = sqlite3.connect(path / NAME)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(BankFormatError, match="format 99"):
        MemoryBank.open(path)
    (path / NAME).write_bytes(b"not a database at all" * 100)
    with pytest.raises(BankFormatError, match="damaged"):
        MemoryBank.open(path)


def test_every_flipped_byte_of_a_segment_is_found_or_harmless(bank: MemoryBank, path: Path) -> None:
    chunks = put(bank, Document("d", "x"))
    (good,) = bank.blocks(chunks)
    (segment,) = path.glob("seg-*.kvs")
    content = segment.read_bytes()
    found = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        segment.write_bytes(damaged)
        with MemoryBank.open(path, read_only=True) as reader:
            try:
                assert same(good, reader.blocks(chunks)[0])
            except BlockCorruptError as error:
                assert "d#0" in str(error)
                assert segment.name in str(error)
                found += 1
    assert found > len(content) / 7 * 0.95


def test_a_text_that_changed_on_disk_is_found_by_verify(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "text"))
    bank.close()
    with sqlite3.connect(path / NAME) as database:
        database.execute("UPDATE documents SET text = 'tex!'")
    database.close()
    with MemoryBank.open(path) as opened, pytest.raises(BlockCorruptError, match="text of chunk d#0"):
        opened.verify()


@pytest.mark.parametrize("where", [lambda *_: True, Compare("page", Operator.NE, 1)], ids=["callable", "query"])
def test_a_document_that_says_that_it_has_no_chunks_is_not_left_out_of_a_filter(
    bank: MemoryBank, path: Path, where: Where
) -> None:
    put(bank, Document("a", "some text"))
    bank.close()
    with closing(sqlite3.connect(path / NAME)) as database, database:
        database.execute("UPDATE documents SET num_chunks = 0")
    with MemoryBank.open(path, read_only=True) as opened:
        assert opened.scope(where).chunks == opened.largest(1, where) == len(chunks_of(Document("a", "some text")))
        for read in (lambda: opened.chunks(where), lambda: opened.candidates("text", 1, opened.scope(where))):
            with pytest.raises(BankFormatError, match="not as it was stored"):
                read()


def test_a_filter_notices_documents_that_are_gone(bank: MemoryBank, path: Path) -> None:
    for doc_id in "abc":
        put(bank, Document(doc_id, f"text {doc_id}"))
    bank.close()
    with closing(sqlite3.connect(path / NAME)) as database, database:
        database.execute("DELETE FROM documents WHERE id = 'c'")
    with MemoryBank.open(path, read_only=True) as opened, pytest.raises(BankFormatError, match="counted"):
        opened.chunks(lambda *_: True)


def test_compact_keeps_everything_when_a_block_in_use_is_damaged(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "x"))
    put(bank, Document("e", "y"))
    (segment,) = path.glob("seg-*.kvs")
    content = bytearray(segment.read_bytes())
    content[600] ^= 1
    segment.write_bytes(content)
    with pytest.raises(BlockCorruptError, match="d#0"):
        bank.compact()
    assert len(bank.blocks(bank.chunks()[1:])) == 1
    bank.delete("d")
    bank.compact()
    assert bank.verify() == 1


def test_a_truncated_and_a_missing_segment_are_found_by_verify(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "x"))
    bank.close()
    (segment,) = path.glob("seg-*.kvs")
    segment.write_bytes(segment.read_bytes()[:-9])
    with MemoryBank.open(path) as opened, pytest.raises(BlockCorruptError, match="ends after"):
        opened.verify()
    segment.unlink()
    with MemoryBank.open(path) as opened, pytest.raises(BlockCorruptError, match="gone"):
        opened.verify()


def test_the_next_writer_cuts_off_what_no_row_points_to_and_a_reader_does_not(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "x"))
    bank.close()
    (segment,) = path.glob("seg-*.kvs")
    acknowledged = segment.read_bytes()
    segment.write_bytes(acknowledged + b"half a record")
    (path / "seg-00000001.kvs").write_bytes(b"another half")
    with MemoryBank.open(path, read_only=True) as reader:
        assert reader.verify() == 1
    assert segment.read_bytes() != acknowledged
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as writer:
        assert len(segment.read_bytes()) > len(acknowledged)
        put(writer, Document("e", "y"))
        stats = writer.stats()
        assert stats.file_bytes == stats.live_bytes
    assert segment.read_bytes() == acknowledged


class MovingCatalogue(Catalogue):
    """A catalogue after whose first look-up another process compacts."""

    writer: MemoryBank | None = None

    def place(self, block_id: bytes) -> Place | None:
        found = super().place(block_id)
        if self.writer is not None:
            self.writer.compact()
            self.writer = None
        return found


def test_a_block_that_moves_between_look_up_and_read_is_found_at_its_new_place(bank: MemoryBank, path: Path) -> None:
    chunks = put(bank, Document("d", "x"))
    (expected,) = bank.blocks(chunks)
    directory, lock = BankDirectory(path), WriterLock(path, 0)
    catalogue = MovingCatalogue(directory, lock, read_only=True)
    with MemoryBank(directory, lock, catalogue, BankConfig(), FileLayer()) as reader:
        catalogue.writer = bank
        assert same(reader.blocks(chunks)[0], expected)
        assert catalogue.writer is None


def test_compact_says_when_a_reader_keeps_deleted_text_alive(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "the password is swordfish"))
    bank._catalogue._rows("PRAGMA busy_timeout=50")  # wait less than usual
    reader = sqlite3.connect(path / NAME, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM documents").fetchone()
    bank.delete("d")
    assert bank.documents() == []
    with pytest.raises(BankError, match="keeps deleted text"):
        bank.compact()
    reader.close()
    bank.compact()
    assert [file.name for file in path.iterdir() if b"swordfish" in file.read_bytes()] == []


class FullDisk(FileLayer):
    """A disk that takes `room` bytes, writing what fits, like a real one."""

    def __init__(self, room: int) -> None:
        self.room = room

    def append(self, path: Path, data: bytes) -> int:
        if len(data) > self.room:
            super().append(path, data[: self.room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return super().append(path, data)


class FailingSync(FileLayer):
    """A disk whose sync fails once."""

    failed = False

    def sync(self, path: Path) -> None:
        if not self.failed and path.suffix == ".kvs":
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(path)


def test_a_full_disk_loses_nothing_that_was_acknowledged(path: Path) -> None:
    files = FullDisk(room=6000)
    with MemoryBank.open(path, fingerprint=FINGERPRINT, files=files) as bank:
        stored = 0
        with pytest.raises(BankFullError, match="no room"):
            for stored in range(100):
                put(bank, Document(f"d{stored}", f"text {stored}"))
        assert 0 < stored < 99
        assert bank.verify() == stored
        files.room = 10**6
        put(bank, Document(f"d{stored}", f"text {stored}"))
        assert bank.verify() == stored + 1
    with MemoryBank.open(path) as reopened:
        assert reopened.verify() == stored + 1


def test_after_a_failed_sync_nothing_is_acknowledged_and_a_new_segment_is_used(path: Path) -> None:
    with MemoryBank.open(path, fingerprint=FINGERPRINT, files=FailingSync()) as bank:
        with pytest.raises(BankError, match="cannot be used"):
            put(bank, Document("d", "x"))
        assert len(bank) == 0
        put(bank, Document("d", "x"))
        assert bank.verify() == 1
        assert sorted(file.name for file in path.glob("seg-*"))[-1] == "seg-00000001.kvs"


CRASH = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from test_bank_damage import FINGERPRINT, Document, FileLayer, MemoryBank, put
class Dying(FileLayer):
    calls = 0
    def _tick(self):
        Dying.calls += 1
        if Dying.calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    def append(self, path, data):
        half = len(data) // 2
        start = super().append(path, data[:half])
        self._tick()
        super().append(path, data[half:])
        self._tick()
        return start
    def sync(self, path):
        self._tick()
        super().sync(path)
bank = MemoryBank.open(sys.argv[1], fingerprint=FINGERPRINT, files=Dying())
for number in range(4):
    put(bank, Document(f"d{number}", f"text {number}"))
    print(f"d{number}", flush=True)
"""


@pytest.mark.parametrize("call", [1, 2, 4, 7])
def test_a_killed_writer_leaves_what_it_acknowledged_and_nothing_else(path: Path, call: int) -> None:
    here = str(Path(__file__).parent)
    killed = subprocess.run(
        [sys.executable, "-c", CRASH, str(path), str(call), here], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = killed.stdout.split()
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as bank:
        assert [document.id for document in bank.documents()] == acknowledged
        assert bank.verify() == len(acknowledged)
        put(bank, Document("next", "goes on"))
        stats = bank.stats()
        assert stats.file_bytes >= stats.live_bytes
        assert bank.verify() == len(acknowledged) + 1
