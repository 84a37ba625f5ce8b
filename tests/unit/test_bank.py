"""The bank keeps what it acknowledged, finds damage, and forgets what was deleted."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from memrecall_kv.bank import MemoryBank
from memrecall_kv.catalogue import NAME
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import (
    BankError,
    BankFormatError,
    BankFullError,
    BankLockedError,
    BlockCorruptError,
    FingerprintMismatchError,
    InputError,
)
from memrecall_kv.segment import FileLayer
from memrecall_kv.types import BankStats, Chunk, Document, MemoryBlock

FINGERPRINT = {"backbone": "tiny", "compression_ratio": "4"}


def block(seed: int, tokens: int = 4) -> MemoryBlock:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(2, 2, tokens, 8, generator=generator) for _ in range(2))
    return MemoryBlock(keys, values, torch.arange(tokens, dtype=torch.int32)[None, None] * 4, tokens * 4, tokens * 4)


def chunks_of(document: Document, size: int = 10) -> list[Chunk]:
    starts = range(0, len(document.text), size)
    return [
        Chunk(document.id, index, start, min(start + size, len(document.text)), document.text[start : start + size], 3)
        for index, start in enumerate(starts)
    ]


def put(bank: MemoryBank, document: Document) -> list[Chunk]:
    chunks = chunks_of(document)
    bank.put_blocks([(chunk, block(sum(chunk.text.encode()))) for chunk in bank.missing(chunks)])
    bank.put_document(document, chunks)
    return chunks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "b.bank"


@pytest.fixture
def bank(path: Path) -> Iterator[MemoryBank]:
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as opened:
        yield opened


def same(one: MemoryBlock, other: MemoryBlock) -> bool:
    return (
        torch.equal(one.keys, other.keys)
        and torch.equal(one.values, other.values)
        and torch.equal(one.positions, other.positions)
        and (one.extent, one.num_source_tokens) == (other.extent, other.num_source_tokens)
    )


def test_an_empty_bank_answers_everything(bank: MemoryBank) -> None:
    assert bank.stats() == BankStats()
    assert (len(bank), bank.chunks(), bank.documents(), bank.verify(), bank.compact()) == (0, [], [], 0, 0)


def test_what_was_put_is_read_back_the_same_from_disk(bank: MemoryBank, path: Path) -> None:
    document = Document("d", "one two three four", {"n": 1, "list": ["ü"]})
    chunks = put(bank, document)
    before = bank.blocks(chunks)
    with MemoryBank.open(path, read_only=True) as other:
        assert other.documents() == [document]
        assert other.chunks() == chunks
        assert all(same(a, b) for a, b in zip(before, other.blocks(chunks), strict=True))
        assert other.fingerprint == FINGERPRINT
    assert bank.holds(document)
    assert not bank.holds(Document("d", document.text, {}))


@pytest.mark.parametrize("storage", ["native", "int8", "int4"])
def test_a_stored_block_stays_close_to_the_one_that_was_made(path: Path, storage: str) -> None:
    chunk = Chunk("d", 0, 0, 1, "x", 16)
    made = block(1, tokens=16)
    with MemoryBank.open(path, fingerprint=FINGERPRINT, config=BankConfig(storage=storage)) as opened:
        opened.put_blocks([(chunk, made)])
        (read,) = opened.blocks([chunk])
    gap = max(float((made.keys - read.keys).abs().max()), float((made.values - read.values).abs().max()))
    assert gap <= {"native": 0.0, "int8": 0.02, "int4": 0.3}[storage]
    assert torch.equal(read.positions, made.positions)


def test_equal_chunks_of_two_documents_share_a_block_and_survive_one_delete(bank: MemoryBank) -> None:
    put(bank, Document("a", "same text."))
    assert bank.missing(chunks_of(Document("b", "same text."))) == []
    put(bank, Document("b", "same text."))
    assert bank.stats().blocks == 1
    bank.delete("a")
    bank.compact()
    assert len(bank.blocks(bank.chunks())) == 1
    assert bank.verify() == 1


def test_an_updated_document_keeps_its_place_and_its_unchanged_blocks(bank: MemoryBank) -> None:
    put(bank, Document("a", "0123456789abcdefghij"))
    put(bank, Document("b", "other"))
    changed = Document("a", "0123456789ABCDEFGHIJ")
    assert [chunk.index for chunk in bank.missing(chunks_of(changed))] == [1]
    put(bank, changed)
    assert [chunk.doc_id for chunk in bank.chunks()] == ["a", "a", "b"]
    assert bank.chunks()[1].text == "ABCDEFGHIJ"


def test_a_deleted_text_is_in_no_file_after_compact(bank: MemoryBank, path: Path) -> None:
    secret = "the password is swordfish"
    chunks = put(bank, Document("secret", secret, {"about": "swordfish"}))
    put(bank, Document("kept", "something else"))
    record = bank._record(chunks[0].text, "x")[64:]
    bank.delete("secret")
    assert [chunk.doc_id for chunk in bank.chunks()] == ["kept"] * 2
    with pytest.raises(InputError, match="no block"):
        bank.blocks(chunks)
    assert bank.compact() > 0
    for file in path.iterdir():
        content = file.read_bytes()
        assert b"swordfish" not in content, file.name
        assert record not in content, file.name


def test_filters_see_id_and_metadata(bank: MemoryBank) -> None:
    put(bank, Document("a", "x", {"lang": "en"}))
    put(bank, Document("b", "y", {"lang": "ja"}))
    assert [c.doc_id for c in bank.chunks(lambda doc_id, metadata: metadata["lang"] == "ja")] == ["b"]
    assert bank.chunks(lambda doc_id, metadata: False) == []


@pytest.mark.parametrize("doc_id", ["日本/語#1", "עברית", "a" * 5000, "x' OR 1=1"])
def test_any_text_is_an_id(bank: MemoryBank, doc_id: str) -> None:
    put(bank, Document(doc_id, "text"))
    assert doc_id in bank
    bank.delete(doc_id)
    assert doc_id not in bank


def test_callers_mistakes_are_refused(bank: MemoryBank, path: Path, tmp_path: Path) -> None:
    chunk = Chunk("d", 0, 0, 1, "x", 1)
    broken = block(0)
    broken.keys[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        bank.put_blocks([(chunk, broken)])
    with pytest.raises(InputError, match="no stored block"):
        bank.put_document(Document("d", "x"), [chunk])
    with pytest.raises(InputError, match="not JSON"):
        bank.put_document(Document("d", "", {"x": object()}), [])
    with pytest.raises(InputError, match="no document"):
        bank.delete("nobody")
    with MemoryBank.open(path, read_only=True) as reader, pytest.raises(BankError, match="reading"):
        reader.delete("d")
    with pytest.raises(BankFormatError, match="no memory bank"):
        MemoryBank.open(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(BankFormatError, match="other files"):
        MemoryBank.open(tmp_path / "other", fingerprint=FINGERPRINT)


def test_another_fingerprint_is_refused_and_both_are_shown(bank: MemoryBank, path: Path) -> None:
    with pytest.raises(FingerprintMismatchError, match="compression_ratio: bank '4', yours '8'") as caught:
        MemoryBank.open(path, fingerprint={**FINGERPRINT, "compression_ratio": "8"})
    assert "new bank" in caught.value.hint


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


def test_two_writers_are_refused_and_readers_are_not(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("a", "x"))
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as second:
        assert len(second) == 1
        with pytest.raises(BankLockedError, match="Another process"):
            second.delete("a")
        put(bank, Document("b", "y"))
        assert [document.id for document in second.documents()] == ["a", "b"]
        bank.close()
        second.delete("a")
        assert [document.id for document in second.documents()] == ["b"]


def test_a_reader_finds_blocks_that_were_moved_by_compact(bank: MemoryBank, path: Path) -> None:
    chunks = put(bank, Document("a", "x"))
    with MemoryBank.open(path, read_only=True) as reader:
        before = reader.blocks(chunks)
        put(bank, Document("b", "y"))
        bank.delete("b")
        bank.compact()
        assert same(before[0], reader.blocks(chunks)[0])


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


def test_segments_are_closed_when_they_are_long_enough(path: Path) -> None:
    with MemoryBank.open(path, fingerprint=FINGERPRINT, config=BankConfig(segment_bytes=4096)) as bank:
        for number in range(12):
            put(bank, Document(f"d{number}", f"t{number}"))
        assert len(list(path.glob("seg-*"))) > 1
        for number in range(11):
            bank.delete(f"d{number}")
        bank.compact()
        assert len(list(path.glob("seg-*"))) == 1
        assert bank.verify() == 1


CRASH = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from test_bank import FINGERPRINT, Document, FileLayer, MemoryBank, put
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


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6, 9])
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
