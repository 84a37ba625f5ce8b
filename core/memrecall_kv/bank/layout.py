"""What a record says of its tensors, checked against itself before anything is made of it.

Everything here is read from a file that somebody else may have written: no number is believed until the sizes
it leads to are those of bytes that are there.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypedDict, get_args

Storage = Literal["native", "int8", "int4", "k4v4", "k4v3"]


@dataclass(frozen=True, slots=True)
class Form:
    """How codes stand for numbers.

    Attributes:
        bits: Of a code, by tensor.
        group: Most neighbours that share a scale; `None`: all do.
        is_small: Whether a scale and what goes with it take a byte each, codes are packed in rows of bits, and numbers
            are turned before they are coded.
    """

    bits: Mapping[str, int]
    group: int | None
    is_small: bool


FORMS: Mapping[Storage, Form] = MappingProxyType(
    {
        "int8": Form({"keys": 8, "values": 8}, None, is_small=False),
        "int4": Form({"keys": 4, "values": 4}, 32, is_small=False),
        "k4v4": Form({"keys": 4, "values": 4}, 64, is_small=True),
        "k4v3": Form({"keys": 4, "values": 3}, 64, is_small=True),
    }
)
"""How they are written. A record says itself how many neighbours share a scale."""

_GROUPS_OF_OLD: Mapping[str, int] = MappingProxyType({"int4": 32})
"""For records that do not say it."""
_SIZES = {"uint8": 1, "int8": 1, "int16": 2, "int32": 4, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of a number, by the dtypes a record may hold."""
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_POSITIONS = ("int16", "int32")
_ALIGN = 64
_LONGEST_TABLE = 65536
_LARGEST = 2**31 - 1


class Facts(TypedDict):
    """What is needed beside the tensors: JSON values.

    Attributes:
        storage: How keys and values are stored.
        dtype: The dtype they were made in, torch's name for it.
        shape: `[L, K, M, D]`, M the largest count.
        extent: Positions the block takes.
        source_tokens: Tokens of the chunk, T.
        group: Most neighbours that share a scale; `None`: all do, or there are no scales.
        turned: Whether what is coded was turned; see `quantize.turned`.
    """

    storage: Storage
    dtype: str
    shape: list[int]
    extent: int
    source_tokens: int
    group: int | None
    turned: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a record.

    Attributes:
        name: `keys`, `values.scale`, ...
        dtype: torch's name for it.
        shape: Its shape.
        offset: Bytes from the first tensor.
        length: Bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What is in a record.

    Attributes:
        facts: How to read the tensors.
        entries: The tensors.
        memory_tokens: Memory tokens per layer and head, on average and rounded up.
    """

    facts: Facts
    entries: tuple[Entry, ...]
    memory_tokens: int


def read_layout(table: bytes, tensors: memoryview) -> Layout:
    """Return what a record holds.

    Args:
        table: Its JSON.
        tensors: The bytes behind it and its padding.

    Raises:
        ValueError: If anything does not fit together; the message says what.
    """
    if len(table) > _LONGEST_TABLE:
        raise ValueError(f"a table of {len(table)} bytes")
    try:
        content = json.loads(table)
        facts = _facts(content["facts"])
        entries = tuple(_entry(row, len(tensors)) for row in content["tensors"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"a table that is none ({error})") from error
    by_name = {entry.name: entry for entry in entries}
    counts = _counts(by_name.get("counts"), facts, tensors)
    expected = _expected(facts, counts)
    if len(by_name) != len(entries) or by_name.keys() != expected.keys():
        raise ValueError(f"tensors named {sorted(entry.name for entry in entries)}")
    for name, (dtypes, shapes) in expected.items():
        if by_name[name].dtype not in dtypes or by_name[name].shape not in shapes:
            raise ValueError(f"{name} of {by_name[name].dtype} {list(by_name[name].shape)}")
    width = facts["shape"][2]
    return Layout(facts, entries, width if counts is None else math.ceil(sum(counts) / len(counts)))


def _facts(found: Any) -> Facts:
    storage, dtype, shape = found["storage"], found["dtype"], found["shape"]
    if storage not in get_args(Storage) or dtype not in _FLOATS:
        raise ValueError(f"storage {storage!r} of {dtype!r}")
    if len(shape) != 4 or not all(_is_size(number) for number in shape):
        raise ValueError(f"shape {shape!r}")
    if not _is_size(found["extent"]) or not _is_size(found["source_tokens"] + 1):
        raise ValueError(f"extent {found['extent']!r}")
    group = found.get("group", _GROUPS_OF_OLD.get(storage))
    if group is not None and not _is_size(group):
        raise ValueError(f"groups of {group!r}")
    turned = found.get("turned", False)  # the first records of small forms were not
    if not isinstance(turned, bool) or (turned and not (storage in FORMS and FORMS[storage].is_small)):
        raise ValueError(f"turned is {turned!r}")
    return Facts(
        storage=storage,
        dtype=dtype,
        shape=shape,
        extent=found["extent"],
        source_tokens=found["source_tokens"],
        group=group,
        turned=turned,
    )


def _entry(row: Any, room: int) -> Entry:
    name, dtype, shape, offset, length = row
    if not isinstance(name, str) or dtype not in _SIZES or not all(_is_size(number) for number in shape):
        raise ValueError(f"a tensor {name!r} of {dtype!r} {shape!r}")
    if not isinstance(offset, int) or offset < 0 or offset % _ALIGN or offset + length > room:
        raise ValueError(f"a tensor {name!r} at byte {offset!r}")
    if math.prod(shape) * _SIZES[dtype] != length:
        raise ValueError(f"a tensor {name!r} of {length!r} bytes")
    return Entry(name, dtype, tuple(shape), offset, length)


def _is_size(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= _LARGEST


def _counts(entry: Entry | None, facts: Facts, tensors: memoryview) -> tuple[int, ...] | None:
    """Return how many memory tokens each head keeps, layer after layer; `None` if all keep M."""
    if entry is None:
        return None
    if entry.dtype not in _POSITIONS or entry.shape != tuple(facts["shape"][:2]):
        raise ValueError(f"counts of {entry.dtype} {list(entry.shape)}")
    letter = "h" if entry.dtype == "int16" else "i"
    counts = struct.unpack_from(f"<{math.prod(entry.shape)}{letter}", tensors, entry.offset)
    if min(counts) < 1 or max(counts) != facts["shape"][2]:
        raise ValueError(f"counts from {min(counts)} to {max(counts)}")
    return counts


_Shapes = Mapping[str, tuple[Sequence[str], Sequence[tuple[int, ...]]]]


def _expected(facts: Facts, counts: tuple[int, ...] | None) -> _Shapes:
    """Return the dtypes and shapes that each tensor may have."""
    layers, heads, width, dim = facts["shape"]
    full = (layers, heads, width)
    rows = full if counts is None else (sum(counts),)
    tables: dict[str, tuple[Sequence[str], Sequence[tuple[int, ...]]]] = {
        "positions": (_POSITIONS, [rows] if counts else [full, (1, 1, width)])
    }
    if counts is not None:
        tables["counts"] = (_POSITIONS, [(layers, heads)])
    if facts["storage"] not in FORMS:
        return {**tables, **{name: ((facts["dtype"],), [(*rows, dim)]) for name in ("keys", "values")}}
    form, group = FORMS[facts["storage"]], facts["group"]

    def groups(size: int) -> int:
        return 1 if group is None else math.ceil(size / group)

    keys = (layers, heads, groups(width), dim) if counts is None else (sum(map(groups, counts)), dim)
    for name, scales in (("keys", keys), ("values", (*rows, groups(dim)))):
        numbers = math.prod(rows) * dim
        if form.is_small:
            tables[name] = (("uint8",), [(form.bits[name], math.ceil(numbers / 8))])
            tables |= {f"{name}.scale": (("uint8",), [scales]), f"{name}.zero": (("int8",), [scales])}
        else:
            tables[name] = (("uint8",), [(*rows, dim) if form.bits[name] == 8 else (math.ceil(numbers / 2),)])
            tables |= {f"{name}.{part}": (("float16",), [scales]) for part in ("scale", "offset")}
    return tables
