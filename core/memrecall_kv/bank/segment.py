"""Records in append-only segment files: what is on disk of a block, and how damage is found.

```
record = header | JSON | padding | tensors, each at a multiple of 64 | footer
header = magic 8s | JSON length u32 | record length u64 | block id 16s | bank id 16s | payload xxh3-64 u64
         | header xxh3-64 u64
footer = record length u64 | commit magic 8s
```

All numbers are little-endian. The payload checksum covers everything between header and footer; the header
checksum covers the header before it. The magic's last character is the record's version; version 1 has no bank id.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import xxhash

from memrecall_kv.bank.files import open_regular
from memrecall_kv.bank.layout import Layout, read_layout
from memrecall_kv.errors import BankFormatError, BlockCorruptError

if TYPE_CHECKING:
    from memrecall_kv.bank.quantize import StoredBlock

_MAGIC = b"MRKVREC2"
_HEADERS: Mapping[bytes, struct.Struct] = MappingProxyType(
    {b"MRKVREC1": struct.Struct("<8sIQ16sQ"), _MAGIC: struct.Struct("<8sIQ16s16sQ")}
)
_COMMIT = b"MRKVDONE"
_CHECK = struct.Struct("<Q")
_FOOTER = struct.Struct("<Q8s")
_ALIGN = 64
_NAME = re.compile(r"seg-(\d{8,18})\.kvs")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies.

    Attributes:
        segment: The number in the segment's file name.
        start: Offset of the record's first byte.
        length: Bytes of the record.
    """

    segment: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class _Header:
    """The start of a record; `bank_id` is `None` with version 1, `size` the bytes it takes."""

    table_length: int
    length: int
    block_id: bytes
    bank_id: bytes | None
    payload_sum: int
    size: int


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"seg-{number:08d}.kvs"


def segment_number(name: str) -> int | None:
    """Return the number in a segment's file name, `None` for any other file, such as a copy of one."""
    match = _NAME.fullmatch(name)
    number = int(match[1]) if match else -1
    return number if name == segment_name(number) else None


def pack(block_id: bytes, stored: StoredBlock, bank_id: bytes) -> bytes:
    """Return the record of a block."""
    import torch

    table, parts, offset = [], [], 0
    for name, tensor in stored.tensors.items():
        raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
        table.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), offset, len(raw)])
        parts.append(raw + bytes(-len(raw) % _ALIGN))
        offset += len(parts[-1])
    facts = json.dumps({"facts": stored.facts, "tensors": table}).encode()
    return _sealed(facts, b"".join(parts), block_id, bank_id)


def renewed(record: bytes, bank_id: bytes) -> bytes:
    """Return a record that `read` returned in today's version and as a bank's, when it is moved or copied."""
    header = _header(record)
    if header.bank_id == bank_id:
        return record
    table, tensors = _parts(record, header)
    return _sealed(bytes(table), bytes(tensors), header.block_id, bank_id)


def read(folder: Path, place: Place, block_id: bytes, name: str, bank_id: bytes) -> bytes:
    """Return the record of a block, compared with its checksums.

    Args:
        folder: The bank's directory.
        place: Where the record should be.
        block_id: The block it should hold.
        name: The chunk, for messages.
        bank_id: The bank it should be of; empty if the bank has none yet.

    Raises:
        BlockCorruptError: If anything differs.
    """
    where = f"{name} in {segment_name(place.segment)}"
    try:
        with os.fdopen(open_regular(folder / segment_name(place.segment), os.O_RDONLY), "rb") as file:
            there = max(0, os.fstat(file.fileno()).st_size - place.start)
            file.seek(place.start)
            # the length is the catalogue's word: no memory is asked for before the file is that long
            record = file.read(min(place.length, there))
    except FileNotFoundError as error:
        raise _corrupt(where, "the file is gone") from error
    except BankFormatError as error:
        raise _corrupt(where, error.message) from error
    if len(record) != place.length:
        raise _corrupt(where, f"the segment ends after {len(record)} of {place.length} bytes")
    try:
        _check(record, block_id, bank_id)
    except ValueError as error:
        raise _corrupt(where, str(error)) from error
    return record


def layout(record: bytes, name: str) -> Layout:
    """Return what a record that `read` returned holds.

    Raises:
        BlockCorruptError: If its tensors cannot be what it says; `name` is the chunk's, for the message.
    """
    table, tensors = _parts(record, _header(record))
    try:
        return read_layout(bytes(table), tensors)
    except ValueError as error:
        raise _corrupt(name, f"it holds {error}") from error


def unpack(record: bytes, name: str, shape: tuple[int, int, int] | None = None) -> StoredBlock:
    """Return the block of a record that `read` returned.

    Raises:
        BlockCorruptError: If its tensors cannot be what it says, or are not of a given L, K and D.
    """
    import torch

    from memrecall_kv.bank.quantize import StoredBlock

    found = layout(record, name)
    layers, heads, _, dim = found.facts["shape"]
    if shape is not None and shape != (layers, heads, dim):
        raise _corrupt(name, f"expected {_sizes(*shape)}, got {_sizes(layers, heads, dim)}")
    _, tensors = _parts(record, _header(record))
    buffer = bytearray(tensors)  # torch wants memory it may write to
    stored = {}
    for entry in found.entries:
        flat = torch.frombuffer(buffer, dtype=torch.uint8, offset=entry.offset, count=entry.length)
        stored[entry.name] = flat.view(getattr(torch, entry.dtype)).view(entry.shape)
    return StoredBlock(stored, found.facts)


def owner(data: bytes) -> bytes | None:
    """Return the id of the bank that wrote the record at the start of some bytes; `None` if they do not say."""
    try:
        return _header(data).bank_id
    except ValueError:
        return None


HEADER_BYTES = max(header.size for header in _HEADERS.values()) + _CHECK.size
"""What `owner` has to see."""


def _sealed(table: bytes, tensors: bytes, block_id: bytes, bank_id: bytes) -> bytes:
    form = _HEADERS[_MAGIC]
    start = form.size + _CHECK.size
    payload = table + bytes(-(start + len(table)) % _ALIGN) + tensors
    length = start + len(payload) + _FOOTER.size
    head = form.pack(_MAGIC, len(table), length, block_id, bank_id, xxhash.xxh3_64_intdigest(payload))
    return b"".join([head, _CHECK.pack(xxhash.xxh3_64_intdigest(head)), payload, _FOOTER.pack(length, _COMMIT)])


def _header(record: bytes) -> _Header:
    """Return the header of a record; raises `ValueError` if there is none."""
    form = _HEADERS.get(record[: len(_MAGIC)])
    if form is None or len(record) < form.size + _CHECK.size:
        raise ValueError("its header does not match its checksum")
    (head_sum,) = _CHECK.unpack_from(record, form.size)
    if xxhash.xxh3_64_intdigest(record[: form.size]) != head_sum:
        raise ValueError("its header does not match its checksum")
    _, table_length, length, block_id, *bank_id, payload_sum = form.unpack_from(record)
    return _Header(
        table_length, length, block_id, bank_id[0] if bank_id else None, payload_sum, form.size + _CHECK.size
    )


def _parts(record: bytes, header: _Header) -> tuple[memoryview, memoryview]:
    """Return the JSON and the tensors of a record."""
    end = header.size + header.table_length
    inside = memoryview(record)[: -_FOOTER.size]
    return inside[header.size : end], inside[end + -end % _ALIGN :]


def _check(record: bytes, block_id: bytes, bank_id: bytes) -> None:
    """Raise `ValueError` unless a record is whole, of this block and of this bank."""
    header = _header(record)
    if len(record) < header.size + _FOOTER.size:
        raise ValueError("it is shorter than a header")
    footer_length, commit = _FOOTER.unpack_from(record, len(record) - _FOOTER.size)
    if header.length != len(record) or footer_length != header.length or commit != _COMMIT:
        raise ValueError(f"it is {len(record)} bytes long instead of {header.length}, or it was not finished")
    if header.block_id != block_id:
        raise ValueError("it holds another block")
    if bank_id and header.bank_id not in (bank_id, None):
        raise ValueError("it is another bank's")
    payload = memoryview(record)[header.size : -_FOOTER.size]
    if xxhash.xxh3_64_intdigest(payload) != header.payload_sum:
        raise ValueError("its content does not match its checksum")


def _sizes(layers: int, heads: int, dim: int) -> str:
    return f"{layers} layers of {heads} heads of {dim} numbers"


def _corrupt(where: str, problem: str) -> BlockCorruptError:
    return BlockCorruptError(
        f"The block of chunk {where} is damaged: {problem}.", "Delete the document and ingest it again."
    )
