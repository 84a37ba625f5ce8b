"""What a caller hands to a bank, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from memrecall_kv.bank.index import CHUNKS as MOST_CHUNKS
from memrecall_kv.errors import BlockCorruptError, FingerprintMismatchError, InputError
from memrecall_kv.types import NO_HEADING, Chunk, Document, MemoryBlock

_FREE = frozenset({"dtype", "storage"})
"""What earlier releases wrote into a bank's fingerprint, and no reader needs to match: every record says it itself."""


def compare_fingerprints(path: Path, stored: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise `FingerprintMismatchError` unless a bank was made with what is given, or holds more layers than that."""
    if "layers" not in stored:
        given = {key: value for key, value in given.items() if key != "layers"}
    differing = [
        f"{key}: bank {stored.get(key)!r}, yours {given.get(key)!r}"
        for key in sorted({*stored, *given} - _FREE)
        if stored.get(key) != given.get(key)
    ]
    if differing:
        raise FingerprintMismatchError(
            f"{path} was made with something else: {'; '.join(differing)}.",
            "Open it with the same backbone and settings, or ingest into a new bank.",
        )


def check_block(chunk: Chunk, block: MemoryBlock) -> None:
    """Raise `InputError` unless a block's shapes fit together and its numbers are finite."""
    shape, positions = tuple(block.keys.shape), tuple(block.positions.shape)
    if len(shape) != 4 or 0 in shape or tuple(block.values.shape) != shape:
        raise InputError(
            f"The block of chunk {chunk.id} has keys {shape} and values {tuple(block.values.shape)}.",
            "Both must be [L, K, M, D] with at least one memory token.",
        )
    if positions not in ((1, 1, shape[2]), shape[:3]):
        raise InputError(
            f"The block of chunk {chunk.id} has positions {positions}.",
            f"Expected (1, 1, {shape[2]}) or {shape[:3]}.",
        )
    counts = block.counts
    if counts is not None and (
        tuple(counts.shape) != shape[:2] or not 1 <= int(counts.min()) <= int(counts.max()) == shape[2]
    ):
        raise InputError(
            f"The block of chunk {chunk.id} has counts of shape {tuple(counts.shape)}.",
            f"Expected {shape[:2]}, each in [1, {shape[2]}] and the largest {shape[2]}.",
        )
    if not (bool(block.keys.isfinite().all()) and bool(block.values.isfinite().all())):
        raise InputError(
            f"The block of chunk {chunk.id} holds NaN or infinity.", "Check the backbone's weights and dtype."
        )


def check_stored(chunk: Chunk, block: MemoryBlock) -> None:
    """Raise `BlockCorruptError` if a block that was read holds numbers that none is stored with."""
    low, high = int(block.positions.min()), int(block.positions.max())
    is_finite = bool(block.keys.isfinite().all()) and bool(block.values.isfinite().all())
    if low < 0 or high >= block.extent or not is_finite:
        raise BlockCorruptError(
            f"The block of chunk {chunk.id} holds numbers that no block has.",
            "Delete the document and ingest it again.",
        )


def check_chunks(document: Document, chunks: Sequence[Chunk]) -> None:
    """Raise `InputError` unless chunks are spans of a document under one heading, each with a number of its own."""
    for chunk in chunks:
        if chunk.doc_id != document.id or chunk.text != document.text[chunk.start : chunk.end]:
            raise InputError(
                f"Chunk {chunk.id} is not the span [{chunk.start}, {chunk.end}) of document {document.id!r}.",
                "Pass the chunks that were cut from this very text.",
            )
    headings = {chunk.heading for chunk in chunks}
    if len(headings) > 1 or (document.heading == NO_HEADING and headings - {NO_HEADING}):
        raise InputError(
            f"The chunks of document {document.id!r} have another heading than it.",
            "Pass the chunks that were cut from this very document.",
        )
    numbers = {chunk.index for chunk in chunks}
    if len(numbers) != len(chunks):
        raise InputError(f"Two chunks of document {document.id!r} have the same index.", "Number them 0, 1, 2, ...")
    if not all(0 <= number < MOST_CHUNKS for number in numbers):
        raise InputError(
            f"A chunk of document {document.id!r} has an index that is not from 0 to {MOST_CHUNKS - 1}.",
            "Number them 0, 1, 2, ..., or cut the document in parts.",
        )


def check_ids(doc_ids: object) -> None:
    """Raise `InputError` if one text is given where several ids are expected."""
    if isinstance(doc_ids, str | bytes):
        raise InputError(f"Expected ids of documents, got the text {doc_ids!r}.", "Give a list of ids.")
