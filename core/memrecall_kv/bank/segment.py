"""Records in append-only segment files: what is on disk of a block, and how damage is found.

```
record = header | JSON | padding | tensors, each at a multiple of 64 | footer
header = magic 8s | JSON length u32 | record length u64 | block id 16s | payload xxh3-64 u64 | header xxh3-64 u64
footer = record length u64 | commit magic 8s
```

All numbers are little-endian. The payload checksum covers everything between header and footer; the header
checksum covers the header before it. The magic's last character is the record's version.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from memrecall_kv.errors import BlockCorruptError

if TYPE_CHECKING:
    from memrecall_kv.bank.quantize import StoredBlock

_MAGIC = b"MRKVREC1"
_COMMIT = b"MRKVDONE"
_HEADER = struct.Struct("<8sIQ16sQ")
_CHECK = struct.Struct("<Q")
_FOOTER = struct.Struct("<Q8s")
_ALIGN = 64


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


class FileLayer:
    """The system calls of a writer; tests put faults in by subclassing."""

    def append(self, path: Path, data: bytes) -> int:
        """Write at the end of a file, creating it, and return the offset."""
        with path.open("ab") as file:
            offset = file.tell()
            file.write(data)
            return offset

    def sync(self, path: Path) -> None:
        """Return when a file or directory is on the disk."""
        if os.name == "nt" and path.is_dir():
            return  # Windows has no such call and keeps directories itself
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to a size."""
        os.truncate(path, size)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"seg-{number:08d}.kvs"


def pack(block_id: bytes, stored: StoredBlock) -> bytes:
    """Return the record of a block."""
    import torch

    table, parts, offset = [], [], 0
    for name, tensor in stored.tensors.items():
        raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
        table.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), offset, len(raw)])
        parts.append(raw + bytes(-len(raw) % _ALIGN))
        offset += len(parts[-1])
    facts = json.dumps({"facts": stored.facts, "tensors": table}).encode()
    start = _HEADER.size + _CHECK.size + len(facts)
    payload = facts + bytes(-start % _ALIGN) + b"".join(parts)
    length = _HEADER.size + _CHECK.size + len(payload) + _FOOTER.size
    head = _HEADER.pack(_MAGIC, len(facts), length, block_id, xxhash.xxh3_64_intdigest(payload))
    return b"".join([head, _CHECK.pack(xxhash.xxh3_64_intdigest(head)), payload, _FOOTER.pack(length, _COMMIT)])


def read(folder: Path, place: Place, block_id: bytes, name: str) -> bytes:
    """Return the record of a block, compared with its checksums.

    Args:
        folder: The bank's directory.
        place: Where the record should be.
        block_id: The block it should hold.
        name: The chunk, for messages.

    Raises:
        BlockCorruptError: If anything differs.
    """
    where = f"{name} in {segment_name(place.segment)}"
    try:
        with (folder / segment_name(place.segment)).open("rb") as file:
            file.seek(place.start)
            record = file.read(place.length)
    except FileNotFoundError as error:
        raise _corrupt(where, "the file is gone") from error
    if len(record) != place.length:
        raise _corrupt(where, f"the segment ends after {len(record)} of {place.length} bytes")
    _check(record, block_id, where)
    return record


def unpack(record: bytes) -> StoredBlock:
    """Return the block of a record that `read` returned."""
    import torch

    from memrecall_kv.bank.quantize import StoredBlock

    size = _HEADER.unpack_from(record)[1]
    start = _HEADER.size + _CHECK.size
    content = json.loads(record[start : start + size])
    base = start + size + -(start + size) % _ALIGN
    buffer = bytearray(record)  # torch wants memory it may write to
    tensors = {}
    for name, dtype, shape, offset, length in content["tensors"]:
        flat = torch.frombuffer(buffer, dtype=torch.uint8, offset=base + offset, count=length)
        tensors[name] = flat.view(getattr(torch, dtype)).view(shape)
    return StoredBlock(tensors, content["facts"])


def _check(record: bytes, block_id: bytes, where: str) -> None:
    try:
        magic, _, length, found, payload_sum = _HEADER.unpack_from(record)
        (head_sum,) = _CHECK.unpack_from(record, _HEADER.size)
        footer_length, commit = _FOOTER.unpack_from(record, len(record) - _FOOTER.size)
    except struct.error as error:
        raise _corrupt(where, "it is shorter than a header") from error
    payload = memoryview(record)[_HEADER.size + _CHECK.size : -_FOOTER.size]
    if xxhash.xxh3_64_intdigest(record[: _HEADER.size]) != head_sum or magic != _MAGIC:
        raise _corrupt(where, "its header does not match its checksum")
    if length != len(record) or footer_length != length or commit != _COMMIT:
        raise _corrupt(where, f"it is {len(record)} bytes long instead of {length}, or it was not finished")
    if found != block_id:
        raise _corrupt(where, "it holds another block")
    if xxhash.xxh3_64_intdigest(payload) != payload_sum:
        raise _corrupt(where, "its content does not match its checksum")


def _corrupt(where: str, problem: str) -> BlockCorruptError:
    return BlockCorruptError(
        f"The block of chunk {where} is damaged: {problem}.", "Delete the document and ingest it again."
    )
