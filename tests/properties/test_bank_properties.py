"""Whatever is done to a bank, and wherever it is interrupted, it holds what was acknowledged and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.files import FileLayer
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import BankError, BankFullError, BankLockedError, InputError
from memrecall_kv.types import Chunk, Document, MemoryBlock

FINGERPRINT = {"backbone": "tiny"}
NATIVE = BankConfig(storage="native", segment_bytes=4096)


def block_of(text: str) -> MemoryBlock:
    """Return a block that only this text has."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    keys, values = (torch.randn(1, 2, 3, 8, generator=generator) for _ in range(2))
    return MemoryBlock(keys, values, torch.arange(3, dtype=torch.int32)[None, None], 6, 6)


def chunks_of(document: Document) -> list[Chunk]:
    spans = [(start, min(start + 4, len(document.text))) for start in range(0, len(document.text), 4)]
    return [Chunk(document.id, i, a, b, document.text[a:b], 6) for i, (a, b) in enumerate(spans)]


def put(bank: MemoryBank, document: Document) -> None:
    chunks = chunks_of(document)
    bank.put_blocks([(chunk, block_of(chunk.text)) for chunk in bank.missing(chunks)])
    bank.put_document(document, chunks)


def state(bank: MemoryBank) -> dict[str, Document]:
    """Return the documents of a bank after comparing every block with the one its text has."""
    documents = {document.id: document for document in bank.documents()}
    chunks = bank.chunks()
    assert chunks == [chunk for document in documents.values() for chunk in chunks_of(document)]
    for chunk, block in zip(chunks, bank.blocks(chunks), strict=True):
        assert torch.equal(block.keys, block_of(chunk.text).keys)
    return documents


class Disk(FileLayer):
    """A disk that can be full."""

    room = 10**9

    def append(self, path: Path, data: bytes) -> int:
        if len(data) > self.room:
            super().append(path, data[: self.room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return super().append(path, data)


texts = st.lists(st.sampled_from(["aaaa", "bbbb", "ｃｃｃｃ", "d\0d\n", "e"]), max_size=4).map("".join)
names = st.sampled_from(["a", "b/#1", "日本", "ר"])


class BankMachine(RuleBasedStateMachine):
    """A bank beside a dictionary."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.disk = Disk()
        self.model: dict[str, Document] = {}
        self.bank = MemoryBank.open(self.folder / "b", fingerprint=FINGERPRINT, config=NATIVE, files=self.disk)

    @rule(doc_id=names, text=texts, page=st.integers(0, 2))
    def add_or_replace(self, doc_id: str, text: str, page: int) -> None:
        document = Document(doc_id, text, {"page": page})
        put(self.bank, document)
        self.model[doc_id] = document
        assert self.bank.holds(document)

    @rule(doc_id=names)
    def delete(self, doc_id: str) -> None:
        if doc_id in self.model:
            self.bank.delete(doc_id)
            del self.model[doc_id]

    @rule()
    def compact(self) -> None:
        self.bank.compact()
        stats = self.bank.stats()
        assert stats.file_bytes == stats.live_bytes

    @rule(room=st.integers(0, 3000), text=texts)
    def fill_the_disk(self, room: int, text: str) -> None:
        self.disk.room = room
        document = Document("full", text)
        try:
            put(self.bank, document)
            self.model["full"] = document
        except BankFullError:
            pass
        self.disk.room = 10**9

    @rule(garbage=st.binary(max_size=200))
    def reopen_after_a_torn_write(self, garbage: bytes) -> None:
        self.bank.close()
        for path in list((self.folder / "b").glob("seg-*"))[-1:]:
            path.write_bytes(path.read_bytes() + garbage)
        self.bank = MemoryBank.open(self.folder / "b", fingerprint=FINGERPRINT, config=NATIVE, files=self.disk)

    @invariant()
    def equals_the_dictionary(self) -> None:
        if not hasattr(self, "bank"):
            return
        found = state(self.bank)
        assert found == self.model
        assert list(found) == list(self.model)
        stats = self.bank.stats()
        chunks = [chunk for document in self.model.values() for chunk in chunks_of(document)]
        assert (stats.documents, stats.chunks, len(self.bank)) == (len(self.model), len(chunks), len(chunks))
        assert self.bank.verify() == stats.blocks == len({chunk.text for chunk in chunks})
        assert stats.live_bytes <= stats.file_bytes

    def teardown(self) -> None:
        if hasattr(self, "bank"):
            self.bank.close()
            shutil.rmtree(self.folder)


TestBank = BankMachine.TestCase
TestBank.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)


class Crash(BaseException):
    """The machine stops."""


class CrashingDisk(FileLayer):
    """A disk that stops at a system call; `lose` then takes away what was never synced."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.synced: dict[Path, int] = {}

    def _tick(self) -> None:
        self.calls -= 1
        if self.calls == 0:
            raise Crash

    def append(self, path: Path, data: bytes) -> int:
        self.synced.setdefault(path, path.stat().st_size if path.exists() else 0)
        self._tick()
        start = super().append(path, data[:100])
        self._tick()
        super().append(path, data[100:])
        return start

    def sync(self, path: Path) -> None:
        self._tick()
        super().sync(path)
        if path.is_file():
            self.synced[path] = path.stat().st_size
        self._tick()

    def truncate(self, path: Path, size: int) -> None:
        self._tick()
        super().truncate(path, size)

    def remove(self, path: Path) -> None:
        self._tick()
        super().remove(path)

    def lose(self, *, part: float) -> None:
        """Keep only a part of the bytes that were written and not synced."""
        for path, size in self.synced.items():
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size + int((path.stat().st_size - size) * part))


OLD, NEW = Document("a", "aaaabbbbcccc"), Document("a", "bbbbddddeeee")
OTHER = Document("b", "bbbbffff")
TRACE: list[tuple[Callable[[MemoryBank], object], list[Document]]] = [
    (lambda bank: put(bank, OLD), [OLD]),
    (lambda bank: put(bank, OTHER), [OLD, OTHER]),
    (lambda bank: put(bank, NEW), [NEW, OTHER]),
    (lambda bank: bank.compact(), [NEW, OTHER]),
    (lambda bank: bank.delete("a"), [OTHER]),
    (lambda bank: bank.compact(), [OTHER]),
]


def run_until_crash(path: Path, disk: FileLayer) -> int:
    """Return how many steps of the trace were acknowledged."""
    done = 0
    with suppress(Crash), MemoryBank.open(path, fingerprint=FINGERPRINT, config=NATIVE, files=disk) as bank:
        for step, _ in TRACE:
            step(bank)
            done += 1
    return done


@pytest.mark.parametrize("part", [0.0, 0.6], ids=["nothing", "a part"])
def test_wherever_the_machine_stops_the_bank_is_as_before_or_after_the_step(tmp_path: Path, part: float) -> None:
    """`part` of what was written and not synced reaches the disk."""
    for call in range(1, 1000):
        disk = CrashingDisk(call)
        path = tmp_path / str(call)
        done = run_until_crash(path, disk)
        disk.lose(part=part)
        allowed = [TRACE[i][1] if i >= 0 else [] for i in (done - 1, done) if i < len(TRACE)]
        with MemoryBank.open(path, fingerprint=FINGERPRINT, config=NATIVE) as bank:
            assert list(state(bank).values()) in allowed
            bank.verify()
            put(bank, Document("next", "goes on"))
            bank.compact()
            stats = bank.stats()
            assert stats.file_bytes == stats.live_bytes
            bank.verify()
        if disk.calls > 0:
            break
    assert done == len(TRACE)
    assert call > 30


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_bank_properties import FINGERPRINT, Document, MemoryBank, put
bank = MemoryBank.open(sys.argv[1], fingerprint=FINGERPRINT)
for number in range(10_000):
    put(bank, Document("d", f"{number:08d}" * 4))
    if number % 7 == 6:
        bank.compact()
    print(number, flush=True)
"""


def test_readers_of_a_killed_writer_always_see_a_whole_document(tmp_path: Path) -> None:
    path = tmp_path / "b"
    MemoryBank.open(path, fingerprint=FINGERPRINT).close()
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        with MemoryBank.open(path, fingerprint=FINGERPRINT) as second, pytest.raises(BankLockedError):
            second.delete("d")
        seen = set()
        while acknowledged < 40:
            with MemoryBank.open(path, read_only=True) as reader:
                for _ in range(5):
                    chunks = reader.chunks()
                    texts = [chunk.text for chunk in chunks]
                    with suppress(InputError):  # replaced and compacted meanwhile
                        for text, block in zip(texts, reader.blocks(chunks), strict=True):
                            assert torch.allclose(block.keys, block_of(text).keys, atol=0.02)
                    assert "".join(texts) in {f"{number:08d}" * 4 for number in range(10_000)}
                    seen.add("".join(texts))
                    (document,) = reader.documents()
                    assert reader.stats().chunks == 8
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split())])
    assert len(seen) > 1
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as bank:
        (document,) = bank.documents()
        assert int(document.text[:8]) >= acknowledged
        assert bank.verify() == len({chunk.text for chunk in bank.chunks()})
        bank.compact()


def test_a_read_that_meets_compact_is_answered_or_refused_but_never_wrong(tmp_path: Path) -> None:
    """Another process compacts between two reads of one that remembers the chunks."""
    with MemoryBank.open(tmp_path / "b", fingerprint=FINGERPRINT, config=NATIVE) as bank:
        put(bank, OLD)
        put(bank, OTHER)
        with MemoryBank.open(tmp_path / "b", read_only=True) as reader:
            chunks = reader.chunks()
            for _ in range(3):
                put(bank, NEW)
                put(bank, OLD)
                bank.compact()
                for chunk, block in zip(chunks, reader.blocks(chunks), strict=True):
                    assert torch.equal(block.values, bank.blocks([chunk])[0].values)


def test_a_failing_truncate_keeps_the_bank_usable(tmp_path: Path) -> None:
    class Stubborn(Disk):
        def truncate(self, path: Path, size: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = Stubborn()
    with MemoryBank.open(tmp_path / "b", fingerprint=FINGERPRINT, config=NATIVE, files=disk) as bank:
        put(bank, OTHER)
        disk.room = 50
        with pytest.raises(BankError):
            put(bank, OLD)
        disk.room = 10**9
        put(bank, OLD)
        assert list(state(bank).values()) == [OTHER, OLD]
