"""Readers fed with what nobody wrote: whatever it is, they give a value or one of this library's errors."""

from __future__ import annotations

import json
import random
import struct
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import torch
from memrecall_kv.bank import MemoryBank, segment
from memrecall_kv.bank.catalogue import Catalogue
from memrecall_kv.bank.directory import CATALOGUE, BankDirectory
from memrecall_kv.bank.layout import Storage
from memrecall_kv.bank.metadata import storable
from memrecall_kv.bank.quantize import dequantize, quantize
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.errors import MemRecallError
from memrecall_kv.types import Document, MemoryBlock
from storage_trace import NATIVE, content, open_bank, put, versioned

_BLOCK, _BANK = b"b" * 16, b"k" * 16
_ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    0.5,
    float("inf"),
    "",
    "keys",
    "bfloat16",
    "int8",
    [],
    {},
    [[]],
]


class Fuzzer:
    """Makes inputs from a seed, and counts what the readers do with them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._source = random.Random(seed)
        self._folder = folder
        self.counts: Counter[str] = Counter()
        self._records = [_record(storage, uneven) for storage in get_args(Storage) for uneven in (False, True)]
        with open_bank(folder / "bank") as bank:
            put(bank, versioned("d", 1))
        self._catalogue = Catalogue(BankDirectory(folder / "bank"), WriterLock(folder / "bank", 0), read_only=True)
        self._pages = (folder / "bank" / CATALOGUE).read_bytes()

    def feed(self, what: str, call: Callable[[], object]) -> None:
        """Call a reader and count."""
        try:
            call()
        except MemRecallError:
            self.counts[f"{what}, refused"] += 1
        except Exception as error:
            self.counts[f"FAILED {what}: {type(error).__name__}: {error}"] += 1
        else:
            self.counts[f"{what}, read"] += 1
        self.counts["inputs"] += 1

    def damaged_record(self) -> None:
        """A record with some bytes changed."""
        record = bytearray(self._source.choice(self._records))
        for _ in range(self._source.randrange(1, 4)):
            record[self._source.randrange(len(record))] = self._source.randrange(256)
        self._read_record(bytes(record[: self._source.choice((len(record), self._source.randrange(len(record) + 1)))]))

    def made_up_record(self) -> None:
        """A record whose table says odd things, with right checksums."""
        record = self._source.choice(self._records)
        table, tensors = segment._parts(record, segment._header(record))
        content = json.loads(bytes(table))
        for _ in range(self._source.randrange(1, 3)):
            self._change(content)
        raw = json.dumps(content).encode()
        if self._source.random() < 0.2:
            raw = raw[: self._source.randrange(len(raw))] + self._source.randbytes(3)
        self._read_record(segment._sealed(raw, bytes(tensors), _BLOCK, _BANK))

    def metadata(self) -> None:
        """A text as metadata: odd, cut, deep or none."""
        text = json.dumps(self._value(3))
        text = self._source.choice(
            (
                text,
                text[: self._source.randrange(len(text) + 1)],
                "[" * self._source.randrange(5000),
                "1" * 5000,
                f'{{"a":{text}}}',
            )
        )
        self.feed("metadata", lambda: self._catalogue.parsed(text))

    def document(self) -> None:
        """A document with anything for metadata."""
        document = Document(self._value(0), self._value(0), {"a": self._value(4)})
        self.feed("documents", lambda: storable(document))

    def catalogue(self) -> None:
        """A catalogue with some bytes changed."""
        pages = bytearray(self._pages)
        for _ in range(self._source.randrange(1, 40)):
            at = self._source.randrange(len(pages))
            pages[at : at + 4] = struct.pack(
                "<I", self._source.choice((0, 1, 2**31, 2**32 - 1, self._source.getrandbits(32)))
            )
        path = self._folder / "changed"
        path.mkdir(exist_ok=True)
        for file in path.iterdir():
            file.unlink()
        (path / CATALOGUE).write_bytes(pages)
        self.feed("catalogues", lambda: self._open(path))

    def _open(self, path: Path) -> None:
        with MemoryBank.open(path, read_only=True, config=NATIVE) as bank:
            for read in (bank.stats, bank.verify, lambda: content(bank)):
                try:
                    read()
                except MemRecallError:
                    continue

    def _read_record(self, record: bytes) -> None:
        path = self._folder / segment.segment_name(0)
        path.write_bytes(record)
        place = segment.Place(0, 0, len(record))
        self.feed(
            "records",
            lambda: dequantize(segment.unpack(segment.read(self._folder, place, _BLOCK, "d#0", _BANK), "d#0")),
        )

    def _change(self, content: Any) -> None:
        """Put something odd in the place of anything."""
        while True:
            keys = list(content) if isinstance(content, dict) else list(range(len(content)))
            if not keys:
                return
            key = self._source.choice(keys)
            if not isinstance(content[key], dict | list) or self._source.random() < 0.1:
                odd = deepcopy(self._source.choice(_ODD))
                content[key] = self._number(content[key]) if self._source.random() < 0.5 else odd
                return
            content = content[key]

    def _number(self, value: object) -> object:
        return value + self._source.choice((-1, 1, 64, 2**20)) if isinstance(value, int) else value

    def _value(self, depth: int) -> Any:
        kind = self._source.randrange(6 if depth else 4)
        if kind == 4:
            return [self._value(depth - 1) for _ in range(self._source.randrange(3))]
        if kind == 5:
            return {f"k{number}": self._value(depth - 1) for number in range(self._source.randrange(3))}
        if kind == 3:
            return "".join(chr(self._source.randrange(0x10FFFF)) for _ in range(self._source.randrange(6)))
        return deepcopy(self._source.choice(_ODD))


def _record(storage: Any, uneven: bool) -> bytes:
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(2, 2, 5, 6, generator=generator) for _ in range(2))
    positions = torch.arange(5, dtype=torch.int32)
    counts = torch.tensor([[5, 1], [2, 3]], dtype=torch.int32) if uneven else None
    placed = positions.expand(2, 2, 5).contiguous() if uneven else positions[None, None]
    return segment.pack(_BLOCK, quantize(MemoryBlock(keys, values, placed, 8, 8, counts), storage), _BANK)


def fuzz(folder: Path, *, inputs: int, seed: int = 0) -> Counter[str]:
    """Feed the readers so many inputs; return how many, and of which kind those were that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    fuzzer = Fuzzer(folder, seed)
    shares = (
        (0.4, fuzzer.damaged_record),
        (0.3, fuzzer.made_up_record),
        (0.14, fuzzer.metadata),
        (0.14, fuzzer.document),
    )
    for share, feed in (*shares, (0.02, fuzzer.catalogue)):
        for _ in range(round(inputs * share)):
            feed()
    return fuzzer.counts
