"""What was deleted or replaced is in no file of a bank after `compact`."""

from __future__ import annotations

import random
from pathlib import Path

from memrecall_kv.bank import MemoryBank
from memrecall_kv.types import Chunk, Document
from storage_trace import FINGERPRINT


def whole(document: Document) -> list[Chunk]:
    return [Chunk(document.id, 0, 0, len(document.text), document.text, 1)]


def traces(path: Path, secrets: list[str]) -> list[str]:
    data = b"".join(file.read_bytes() for file in sorted(path.iterdir()))
    return [secret for secret in secrets if secret.encode() in data]


def document(source: random.Random, longest: int) -> tuple[Document, str]:
    secret = f"{source.getrandbits(64):016x}"
    text = f"TEXT{secret} " * source.randrange(1, longest)
    return Document(
        f"{source.getrandbits(32):08x}-ID{secret}", text, {"about": f"META{secret}", f"KEY{secret}": 1}
    ), secret


def test_nothing_deleted_is_left_of_a_thousand_documents(ram: Path) -> None:
    source = random.Random(1)
    with MemoryBank.open(ram / "bank", fingerprint=FINGERPRINT) as bank:
        stored = [document(source, source.choice((9, 80))) for _ in range(1200)]
        for one, _ in stored:
            bank.put_document(one, whole(one), defer=True)
        replaced = []
        for place in source.sample(range(1200), 400):
            one, secret = stored[place]
            new = f"{source.getrandbits(64):016x}"
            text = f"TEXT{new} " * source.randrange(1, 160)
            changed = Document(one.id, text, {"about": [f"META{new}"]})
            bank.put_document(changed, whole(changed), defer=True)
            replaced += [f"TEXT{secret}", f"META{secret}", f"KEY{secret}", f"text{secret[:12]}"]
        source.shuffle(stored)
        for one, _ in stored[:600]:
            bank.delete(one.id)
        deleted = [secret for _, secret in stored[:600]]
        gone = [*replaced, *(f"{kind}{secret}" for secret in deleted for kind in ("ID", "TEXT", "META", "KEY"))]
        gone += [f"text{secret[:12]}" for secret in deleted]  # as the index has it, without what it takes for an ending
        bank.compact()
        assert traces(bank.path, gone) == []
        kept = [f"ID{secret}" for _, secret in stored[600:]]
        assert len(traces(bank.path, kept)) == 600
        # the index holds the others' words, in lower case
        words = {document.text[:16].lower() for document in bank.documents()}
        assert len(traces(bank.path, sorted(words))) == len(words) == 600
        assert bank.verify() == 0
    assert traces(ram / "bank", gone) == []
