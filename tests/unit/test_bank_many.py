"""Many documents in one transaction: all of them or none."""

from __future__ import annotations

from pathlib import Path

import pytest
from bank_samples import FINGERPRINT, chunks_of, put
from memrecall_kv.bank import MemoryBank
from memrecall_kv.errors import InputError
from memrecall_kv.types import Document

SEVERAL = [Document(f"d{number}", f"text number {number}", {"n": number}) for number in range(5)]


def items(documents: list[Document]) -> list[tuple]:
    return [(document, chunks_of(document)) for document in documents]


def test_documents_are_put_together_in_the_order_given(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        put(bank, SEVERAL[3])
        changed = Document("d3", "another text", {"n": 33})
        bank.put_documents(items([*SEVERAL[:3], changed]), defer=True)
        assert bank.documents() == [changed, *SEVERAL[:3]]
        bank.put_documents([])
        assert len(bank.documents()) == 4


def test_one_document_that_cannot_be_stored_keeps_the_others_out(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        put(bank, SEVERAL[0])
        bad = Document("bad", "text", {"n": object()})
        with pytest.raises(InputError, match="not JSON"):
            bank.put_documents(items([Document("d0", "changed"), *SEVERAL[1:], bad]), defer=True)
        with pytest.raises(InputError, match="no stored block"):
            bank.put_documents(items(SEVERAL))
        assert bank.documents() == [SEVERAL[0]]
        bank.verify()


def test_documents_are_deleted_together_or_not_at_all(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        bank.put_documents(items(SEVERAL), defer=True)
        with pytest.raises(InputError, match="no document 'nobody'"):
            bank.delete_many(["d0", "d1", "nobody"])
        assert bank.documents() == SEVERAL
        with pytest.raises(InputError, match="Give a list"):
            bank.delete_many("d0")
        bank.delete_many(document.id for document in SEVERAL[1:] + SEVERAL[2:])
        bank.delete_many([])
        assert bank.documents() == SEVERAL[:1]


def test_a_full_transaction_is_seen_by_readers_at_once(tmp_path: Path) -> None:
    with MemoryBank.open(tmp_path / "bank", fingerprint=FINGERPRINT) as bank:
        bank.put_documents(items(SEVERAL), defer=True)
        seen: list[int] = []
        with MemoryBank.open(bank.path, read_only=True) as reader:

            def watched() -> list[str]:
                seen.append(len(reader.documents()))
                return [document.id for document in SEVERAL]

            bank.delete_many(watched())
            seen.append(len(reader.documents()))
        assert seen == [5, 0]
