"""The bank keeps what it acknowledged and forgets what was deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bank_samples import FINGERPRINT, block, chunks_of, put, same
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.catalogue import Catalogue
from memrecall_kv.bank.directory import BankDirectory
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import (
    BankError,
    BankFormatError,
    BankLockedError,
    FingerprintMismatchError,
    InputError,
)
from memrecall_kv.types import BankStats, Chunk, Document, MemoryBlock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "b.bank"


@pytest.fixture
def bank(path: Path) -> Iterator[MemoryBank]:
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as opened:
        yield opened


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
    (segment,) = path.glob("seg-*.kvs")
    record = segment.read_bytes()[320:1024]
    bank.delete("secret")
    assert [chunk.doc_id for chunk in bank.chunks()] == ["kept"] * 2
    with pytest.raises(InputError, match="no block"):
        bank.blocks(chunks)
    assert bank.uses(bank.chunks()[0])
    assert not bank.uses(chunks[0])
    before = segment.stat().st_size
    assert bank.compact() == before - sum(file.stat().st_size for file in path.glob("seg-*.kvs"))
    for file in path.iterdir():
        content = file.read_bytes()
        assert b"swordfish" not in content, file.name
        assert record not in content, file.name


def test_a_replaced_text_is_in_no_file_nor_after_compact(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "the password is swordfish"))
    put(bank, Document("d", "the password is forgotten"))
    assert [file.name for file in path.iterdir() if b"swordfish" in file.read_bytes()] == []
    bank.compact()
    assert [file.name for file in path.iterdir() if b"swordfish" in file.read_bytes()] == []


def test_what_deleting_needs_is_set_also_without_a_fingerprint(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "text"))
    bank.close()
    catalogue = Catalogue(BankDirectory(path), WriterLock(path, 0), read_only=False)
    # 1: overwrite deleted rows; 2: FULL, a commit survives a power cut
    assert [catalogue._rows(f"PRAGMA {name}") for name in ("secure_delete", "synchronous")] == [[(1,)], [(2,)]]
    catalogue.close()


def test_text_that_moves_between_two_documents_of_a_group_needs_no_new_block(bank: MemoryBank) -> None:
    put(bank, Document("a", "0123456789"))
    group = [Document("a", "abcdefghij"), Document("b", "0123456789")]
    missing = bank.missing([chunk for document in group for chunk in chunks_of(document)])
    assert [chunk.text for chunk in missing] == ["abcdefghij"]
    bank.put_blocks([(chunk, block(1)) for chunk in missing])
    for document in group:
        bank.put_document(document, chunks_of(document))
    assert bank.verify() == 2


def test_a_block_that_is_stored_already_is_not_written_again(bank: MemoryBank) -> None:
    (chunk,) = put(bank, Document("d", "text"))
    before = bank.stats().file_bytes
    bank.put_blocks([(chunk, block(1)), (chunk, block(2))])
    bank.put_blocks([])
    assert bank.stats().file_bytes == before


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
    with pytest.raises(InputError, match="key is no text"):
        bank.put_document(Document("d", "", {"x": [{1: "one"}]}), [])
    for unknown in (bank.delete, bank.document, bank.metadata):
        with pytest.raises(InputError, match="no document 'nobody'"):
            unknown("nobody")
    with pytest.raises(InputError, match="surrogates"):
        bank.put_document(Document("d", "\ud800"), [])
    assert object() not in bank
    with MemoryBank.open(path, read_only=True) as reader, pytest.raises(BankError, match="reading"):
        reader.delete("d")
    with pytest.raises(BankFormatError, match="no memory bank"):
        MemoryBank.open(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(BankFormatError, match="other files"):
        MemoryBank.open(tmp_path / "other", fingerprint=FINGERPRINT)
    with pytest.raises(BankFormatError, match="is a file"):
        MemoryBank.open(tmp_path / "other" / "file", fingerprint=FINGERPRINT)


def test_blocks_and_chunks_that_do_not_fit_together_are_refused(bank: MemoryBank) -> None:
    good, chunk = block(0), Chunk("d", 0, 0, 1, "x", 1)
    empty = MemoryBlock(good.keys[:, :, :0], good.values[:, :, :0], good.positions[..., :0], 0, 0)
    for broken, message in (
        (empty, "at least one memory token"),
        (replace(good, values=good.values[..., 1:]), "keys .* and values"),
        (replace(good, positions=good.positions[0, 0]), "positions"),
    ):
        with pytest.raises(InputError, match=message):
            bank.put_blocks([(chunk, broken)])
    bank.put_blocks([(chunk, good)])
    for document, chunks in ((Document("d", "y"), [chunk]), (Document("e", "x"), [chunk])):
        with pytest.raises(InputError, match="is not the span"):
            bank.put_document(document, chunks)
    with pytest.raises(InputError, match="same index"):
        bank.put_document(Document("d", "x"), [chunk, chunk])
    assert bank.documents() == []


def test_a_closed_bank_says_so(bank: MemoryBank) -> None:
    bank.close()
    bank.close()
    with pytest.raises(BankError, match="closed"):
        bank.stats()


def test_a_bank_is_inspected_emptied_and_checked_without_torch(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("d", "text"))
    put(bank, Document("e", "more text"))
    bank.close()
    code = (
        "import sys; from memrecall_kv.bank import MemoryBank; bank = MemoryBank.open(sys.argv[1]); bank.delete('d');"
        "bank.compact(); print(bank.verify(), len(bank.chunks()), bank.documents()[0].id, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "1", "e", "False"], done.stderr


def test_any_thread_may_read_and_write(bank: MemoryBank) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: put(bank, Document(str(number), f"text {number}")), range(16)))
        counts = list(pool.map(lambda _: len(bank.blocks(bank.chunks())), range(8)))
    assert counts == [16] * 8


def test_metadata_comes_back_in_the_order_it_was_given(bank: MemoryBank) -> None:
    metadata = {"z": 1, "a": {"y": None, "b": [True, 0.5, "ü"]}}
    bank.put_document(Document("d", "", metadata), [])
    assert list(bank.metadata("d")) == ["z", "a"]
    assert bank.document("d").metadata == metadata
    assert bank.holds(Document("d", "", {"a": metadata["a"], "z": 1}))


def test_another_fingerprint_is_refused_and_both_are_shown(bank: MemoryBank, path: Path) -> None:
    with pytest.raises(FingerprintMismatchError, match="compression_ratio: bank '4', yours '8'") as caught:
        MemoryBank.open(path, fingerprint={**FINGERPRINT, "compression_ratio": "8"})
    assert "new bank" in caught.value.hint


def test_two_writers_are_refused_and_readers_are_not(bank: MemoryBank, path: Path) -> None:
    put(bank, Document("a", "x"))
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as second:
        assert len(second) == 1
        with pytest.raises(BankLockedError, match="Another process"):
            second.delete("a")
        assert (path / "writer.lock").read_text() == str(os.getpid())
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


def test_a_bank_says_whether_it_is_open_for_reading_only(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "b", fingerprint={"x": "1"}) as bank:
        assert not bank.read_only
    with MemoryBank.open(tmp_path / "b", read_only=True) as bank:
        assert bank.read_only
