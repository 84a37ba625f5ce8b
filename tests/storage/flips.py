"""Every bit of a small bank flipped, every file cut short: what is read is right, or an error says that it is not."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.errors import MemRecallError
from memrecall_kv.filters import AmongIds, Compare, Operator
from memrecall_kv.types import Document
from storage_trace import FINGERPRINT, NATIVE, WrongError, chunks_of, content, open_bank, put

_DOCUMENTS = [
    Document(f"doc-{number}", f"text {number} on {number * number}", {"page": number, "of": ["t", None]})
    for number in range(3)
]
_CHUNKS_OF_ONE = len(chunks_of(_DOCUMENTS[1]))
_LATER = Document("later", "still to be compressed", {"page": 9})


def build(path: Path, storage: str = "native") -> None:
    """Make a bank, in small pages so that there are fewer bits that mean nothing."""
    config = NATIVE.model_copy(update={"storage": storage})
    with MemoryBank.open(path, fingerprint=FINGERPRINT, config=config) as bank:
        for document in _DOCUMENTS:
            put(bank, document)
        bank.put_document(_LATER, chunks_of(_LATER), defer=True)
    with closing(sqlite3.connect(path / CATALOGUE)) as database:
        database.executescript("PRAGMA journal_mode=DELETE; PRAGMA page_size=512; VACUUM; PRAGMA journal_mode=WAL;")
    for name in ("writer.lock", "catalogue.sqlite-reserve"):
        (path / name).unlink()


def use(path: Path) -> str:
    """Read a bank that was changed; return `found` or `harmless`.

    Raises:
        WrongError: If anything that was read is not what was stored, and nothing said so.
    """
    try:
        with MemoryBank.open(path, read_only=True, config=NATIVE) as bank:
            wrong = _wrong(bank)
            try:
                verified = bank.verify()
            except MemRecallError:
                return _told("found", wrong - {"stats"})
            return _told("harmless", wrong | ({"verify"} if verified != _BLOCKS else set()))
    except MemRecallError:
        return "found"


_BLOCKS = len({chunk.text for document in _DOCUMENTS for chunk in chunks_of(document)})


def _told(kind: str, wrong: set[str]) -> str:
    if wrong:
        raise WrongError(f"wrong and unnoticed: {sorted(wrong)}")
    return kind


def _wrong(bank: MemoryBank) -> set[str]:
    """Return what can be read and is wrong."""
    everything = [*_DOCUMENTS, _LATER]
    chunks = [chunk for document in everything for chunk in chunks_of(document)]
    reads: dict[str, tuple[Callable[[], Any], Any]] = {
        "documents": (bank.documents, everything),
        "chunks": (bank.chunks, chunks),
        "filter": (lambda: len(bank.chunks(lambda _, metadata: metadata["page"] == 9)), len(chunks_of(_LATER))),
        "query": (
            lambda: len(bank.chunks(Compare("page", Operator.GT, 1))),
            len(chunks_of(_LATER)) + len(chunks_of(_DOCUMENTS[2])),
        ),
        "ids": (
            lambda: [chunk.doc_id for chunk in bank.chunks(AmongIds(frozenset({"doc-1"})))],
            ["doc-1"] * _CHUNKS_OF_ONE,
        ),
        # a word whose row is damaged may propose others, as one that no text holds: `verify` says so
        "candidates": (
            lambda: [each for each, _ in bank.candidates("still", 2, bank.scope()) if each not in chunks],
            [],
        ),
        "sizes": (lambda: bank.scope(Compare("of", Operator.EMPTY)).chunks, len(chunks_of(_LATER))),
        "blocks": (lambda: _blocks(bank), True),
        "stats": (
            lambda: (bank.stats().documents, bank.stats().blocks, bank.stats().memory_tokens),
            (4, _BLOCKS, 3 * _BLOCKS),
        ),
        **{
            f"metadata of {document.id}": (lambda doc_id=document.id: bank.metadata(doc_id), document.metadata)
            for document in everything
        },
    }
    wrong = set()
    for name, (read, right) in reads.items():
        try:
            if read() != right:
                wrong.add(name)
        except MemRecallError:
            continue
    return wrong


def _blocks(bank: MemoryBank) -> bool:
    for document in _DOCUMENTS:
        bank.blocks(chunks_of(document))
    return True


def flip(folder: Path, *, every: int = 1, first: int = 0, storage: str = "native") -> Counter[str]:
    """Flip bits and cut bytes off, each n-th change from the `first`; return how many, and of which kind failed.

    The bank is the one in `folder / "good"`, made if there is none: who shares the changes shares the bank.
    """
    counts: Counter[str] = Counter()
    if not (folder / "good").exists():
        build(folder / "good", storage)
    for path, changed, what in islice(_changes(folder / "good", folder / f"copy-{first}"), first, None, every):
        path.write_bytes(changed)
        for ending in ("-wal", "-shm"):
            (path.parent / f"{CATALOGUE}{ending}").unlink(missing_ok=True)
        try:
            counts[f"{what}, {use(path.parent)}"] += 1
        except Exception as error:
            counts[f"FAILED {what} in {path.name}: {type(error).__name__}: {error}"] += 1
    counts["flips and cuts"] = sum(count for what, count in counts.items() if "," in what)
    return counts


def _changes(bank: Path, copy: Path) -> Iterator[tuple[Path, bytes, str]]:
    for good in sorted(bank.iterdir()):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bank, copy)
        data = good.read_bytes()
        for bit in range(len(data) * 8):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            yield copy / good.name, bytes(changed), f"flips of {good.suffix[1:]}"
        for size in range(len(data)):
            yield copy / good.name, data[:size], f"cuts of {good.suffix[1:]}"


def flip_log(folder: Path, *, every: int = 1) -> Counter[str]:
    """Flip each n-th byte of a log that was left by a kill: what it held since may be lost, nothing may be wrong."""
    counts: Counter[str] = Counter()
    bank = open_bank(folder / "hot")
    for document in _DOCUMENTS:
        put(bank, document)
    shutil.copytree(folder / "hot", folder / "left")
    bank.close()
    log = (folder / "left" / f"{CATALOGUE}-wal").read_bytes()
    states = [_DOCUMENTS[:number] for number in range(len(_DOCUMENTS) + 1)]
    for at in range(0, len(log), every):
        shutil.rmtree(folder / "copy", ignore_errors=True)
        shutil.copytree(
            folder / "left", folder / "copy", ignore=shutil.ignore_patterns("*-shm", "catalogue.sqlite-reserve")
        )
        changed = bytearray(log)
        changed[at] ^= 1 << at % 8
        (folder / "copy" / f"{CATALOGUE}-wal").write_bytes(changed)
        try:
            with MemoryBank.open(folder / "copy", read_only=True, config=NATIVE) as left:
                if content(left) not in states:
                    raise WrongError("it holds what it never held")
                left.verify()
            counts["flips of wal"] += 1
        except MemRecallError:
            counts["flips of wal"] += 1
        except Exception as error:
            counts[f"FAILED flip of wal: {type(error).__name__}: {error}"] += 1
    return counts
