"""Digests of the catalogue's rows: a changed digit in a page of SQLite's is found when the row is read.

Each is xxh3-128 of numbers as little-endian int64 and of texts as UTF-8 behind their length, in the order of the
arguments. They find damage; they do not keep out somebody who can write the file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeAlias

import xxhash

Cut: TypeAlias = tuple[int, int, int, int, bytes]
"""A chunk's row: number, start, stop, tokens, block id."""

_CUT = struct.Struct("<qqqq16s")
_NUMBER = struct.Struct("<q")


def of_head(place: int, doc_id: str, metadata: str) -> bytes:
    """Return the digest of what a document is besides its text and heading, 16 bytes.

    Raises:
        ValueError: If a value is not of its column's type.
    """
    return _digest((place, int), (doc_id, str), (metadata, str))


def of_body(place: int, doc_id: str, text: str, heading: str, cuts: Sequence[Cut]) -> bytes:
    """Return the digest of a document's text and heading and of the rows of its chunks; raises like `of_head`."""
    try:
        rows = b"".join([_CUT.pack(*cut) for cut in cuts])
    except (struct.error, TypeError) as error:
        raise ValueError(f"a chunk's row holds {error}") from error
    return _digest((place, int), (doc_id, str), (text, str), (heading, str), (rows, bytes))


def of_block(block_id: bytes, segment: int, start: int, length: int, memory_tokens: int) -> bytes:
    """Return the digest of a block's row; raises like `of_head`."""
    return _digest((block_id, bytes), (segment, int), (start, int), (length, int), (memory_tokens, int))


def of_bank(bank_id: str, fingerprint: str) -> bytes:
    """Return the digest of what a bank is; raises like `of_head`."""
    return _digest((bank_id, str), (fingerprint, str))


def of_counts(counts: Sequence[int]) -> bytes:
    """Return the digest of how much a bank holds; raises like `of_head`."""
    return _digest(*((count, int) for count in counts))


def _digest(*values: tuple[object, type]) -> bytes:
    """Return the digest of values, each with its kind."""
    state = xxhash.xxh3_128()
    for value, kind in values:
        if not isinstance(value, kind):
            raise ValueError(f"{type(value).__name__} where {kind.__name__} should be")
        if isinstance(value, int):
            state.update(_NUMBER.pack(value))
        elif isinstance(value, str | bytes):
            raw = value.encode() if isinstance(value, str) else value
            state.update(_NUMBER.pack(len(raw)))
            state.update(raw)
    return state.digest()
