"""Blocks as they are stored: native, 8 bits or fewer, and back.

Readers always get the de-quantised block, also right after it was stored: disk and memory agree.

Sources: KIVI, arXiv:2402.02750: keys are quantised per channel and values per token, as their outliers lie. QuaRot,
arXiv:2404.00456: numbers are turned by a Hadamard matrix before they are quantised, which spreads outliers.
Deviations:

1. Keys are quantised before rotary embedding, over all memory tokens of a block at once (8 bits).
2. Codes are asymmetric also at 8 bits: on SmolLM2-135M's keys the relative error is 0.0026, symmetric 0.0042.
3. With fewer bits a scale stands for at most 32 (`int4`) or 64 (`k4v4`, `k4v3`) neighbours.
4. With `k4v4` and `k4v3` scale and zero point take a byte each instead of two: on SmolLM2-135M's blocks, 4 bits and
   groups of 64, that costs 0.25 bits less per value and 0.6 less per key; the relative error is 0.048 instead of 0.045
   for keys, 0.104 instead of 0.097 for values.
5. Of these, keys and values are turned head by head, and turned back when they are read: nothing is folded into
   weights, and keys stay quantised per channel. What quantising changes of the packaged gate's log-odds is less by a
   quarter to a third (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from memrecall_kv.bank.layout import FORMS, Facts, Form, Storage

if TYPE_CHECKING:  # a bank can be inspected without torch
    from torch import Tensor

    from memrecall_kv.types import MemoryBlock

_DIMS: Mapping[str, int] = {"keys": 2, "values": 3}
"""Tensors and the dimension of `[L, K, M, D]` that shares a scale."""
_LARGEST = 2.0**15
"""Numbers from here on, half of what float16 can hold, leave no room for a range: they are stored as they are."""
_SMALLEST = 2.0**-9
"""A block of smaller numbers is stored as it is where a scale is a byte: below, the byte's steps grow."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredBlock:
    """What is written of a block.

    Attributes:
        tensors: By name, on the CPU. `positions` is int16, or int32 for long chunks: `[1, 1, M]` or `[L, K, M]`.
            `keys` and `values` are native numbers `[L, K, M, D]` or codes; G neighbours share a scale.

            | storage | codes, uint8 | a code stands for |
            |---|---|---|
            | `int8` | `[L, K, M, D]` | `code * scale + offset`, both float16; G: all |
            | `int4` | two in a byte, the earlier one in the low bits, `[ceil(L*K*M*D / 2)]` | the same; G: 32 |
            | `k4v4`, `k4v3` | `[bits, ceil(L*K*M*D / 8)]`, see `_packed` | `(code + zero) * scale`; G: 64 |

            What `k4v4` and `k4v3` code is turned, see `turned`.

            `keys.scale` is `[L, K, ceil(M/G), D]`, `values.scale` `[L, K, M, ceil(D/G)]`; `.offset` and `.zero` are
            like `.scale`. `zero` is int8, and its `scale` the upper 8 bits of a float16 without its sign.
            Where heads keep different numbers, `counts` is `[L, K]` and of the other tensors only the rows of real
            memory tokens are held, `[N, ...]`, layer after layer and head after head.
        facts: How to read the tensors.
    """

    tensors: dict[str, Tensor]
    facts: Facts


def quantize(block: MemoryBlock, storage: Storage) -> StoredBlock:
    """Return a block as it is stored; `native` if its numbers exceed what its scales can hold.

    Args:
        block: Finite keys and values, on any device, in any floating dtype.
        storage: How to store them. The error is at most half a scale, plus what rounding to the block's dtype costs.
            A scale is a range of neighbours / (2^bits - 1), rounded up; where a scale is a byte, also at least 1/127
            of the smallest of the neighbours.
    """
    import torch

    numbers = {"keys": block.keys.cpu().float(), "values": block.values.cpu().float()}
    form = FORMS.get(storage)
    is_turned = form is not None and form.is_small
    if is_turned:
        numbers = {name: turned(tensor) for name, tensor in numbers.items()}
    if form is not None and not all(_fits(tensor, form) for tensor in numbers.values()):
        form, is_turned = None, False
    group = None if form is None else form.group
    narrow = torch.int16 if block.extent < 2**15 else torch.int32
    tensors = {"positions": block.positions.to(narrow).cpu()}
    counts = None if block.counts is None else block.counts.cpu()
    if form is None:
        tensors |= {"keys": block.keys.cpu(), "values": block.values.cpu()}
    else:
        for name, tensor in numbers.items():
            tensors |= _encode(name, _padded(tensor, counts), form)
    if counts is not None:
        packed = {name: t[_real_rows(name, group, counts, block.width)] for name, t in tensors.items()}
        tensors = {**packed, "counts": counts.to(narrow)}
    if form is not None:
        tensors |= {name: _packed(tensors[name], name, form) for name in _DIMS}
    facts: Facts = {
        "storage": "native" if form is None else storage,
        "dtype": str(block.keys.dtype).removeprefix("torch."),
        "shape": list(block.keys.shape),
        "extent": block.extent,
        "source_tokens": block.num_source_tokens,
        "group": group,
        "turned": is_turned,
    }
    return StoredBlock({name: tensor.contiguous() for name, tensor in tensors.items()}, facts)


def dequantize(stored: StoredBlock) -> MemoryBlock:
    """Return a stored block in the dtype it was made in."""
    import torch

    from memrecall_kv.types import MemoryBlock

    facts, tensors, counts = stored.facts, stored.tensors, stored.tensors.get("counts")
    dtype, form = getattr(torch, facts["dtype"]), FORMS.get(facts["storage"])
    numbers = {name: tensors[name] if form is None else _decoded(stored, name, form) for name in _DIMS}
    if facts["turned"]:
        numbers = {name: turned(tensor) for name, tensor in numbers.items()}
    rows = {**{name: tensor.to(dtype) for name, tensor in numbers.items()}, "positions": tensors["positions"]}
    if counts is not None:
        real = _real_rows("positions", None, counts, facts["shape"][2])
        rows = {name: _unpacked(tensor, real) for name, tensor in rows.items()}
    return MemoryBlock(
        keys=rows["keys"],
        values=rows["values"],
        positions=rows["positions"].to(torch.int32),
        extent=facts["extent"],
        num_source_tokens=facts["source_tokens"],
        counts=None if counts is None else counts.to(torch.int32),
    )


def turned(tensor: Tensor) -> Tensor:
    """Multiply the last dimension, piece by piece, by a Hadamard matrix that is its own inverse; `[..., D]` float32.

    A piece is as long as the largest power of two that divides D.
    """
    matrix = _hadamard(tensor.shape[-1] & -tensor.shape[-1])
    return (tensor.reshape(-1, len(matrix)) @ matrix).view(tensor.shape)


@cache
def _hadamard(size: int) -> Tensor:
    """Return Sylvester's matrix, symmetric and orthonormal."""
    import torch

    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)]) / 2**0.5
    return matrix


def _fits(tensor: Tensor, form: Form) -> bool:
    """Return whether the scales of a form can hold what is to be coded."""
    return (_SMALLEST if form.is_small else 0.0) <= float(tensor.abs().max()) < _LARGEST


def _encode(name: str, tensor: Tensor, form: Form) -> dict[str, Tensor]:
    """Return codes, scales and what goes with them of a float32 `[L, K, M, D]`, one range per group of neighbours."""
    import torch

    dim, levels = _DIMS[name], 2 ** form.bits[name] - 1
    group = form.group or tensor.shape[dim]
    ranges = _grouped(tensor, dim, group)
    lowest, highest = ranges.amin(dim + 1), ranges.amax(dim + 1)
    if form.is_small:
        scale = _byte_above(torch.maximum((highest - lowest) / levels, lowest.abs() / 127))
        step = _of_byte(scale)
        start = (lowest / torch.where(step > 0, step, 1.0)).round()
        parts, low = {"scale": scale, "zero": start.to(torch.int8)}, start * step
    else:
        offset = _half_below(lowest)
        # from the rounded offset and rounded up, so that no number falls outside its range
        half = -_half_below((offset.float() - highest) / levels)
        parts, low, step = {"scale": half, "offset": offset}, offset.float(), half.float()
    low, step = (_spread(part, dim, group, tensor.shape[dim]) for part in (low, step))
    codes = ((tensor - low) / torch.where(step > 0, step, 1.0)).round().clamp(0, levels).to(torch.uint8)
    return {name: codes, **{f"{name}.{part}": found for part, found in parts.items()}}


def _decoded(stored: StoredBlock, name: str, form: Form) -> Tensor:
    """Return float32 `[L, K, M, D]`, or `[N, D]` where heads keep different numbers."""
    tensors, facts, counts = stored.tensors, stored.facts, stored.tensors.get("counts")
    *full, dim = facts["shape"]
    rows = full if counts is None else [int(counts.sum())]
    made = _codes(tensors[name], [*rows, dim], form.bits[name], form).float()
    scale = tensors[f"{name}.scale"]
    if form.is_small:
        scale = _of_byte(scale)
        offset = tensors[f"{name}.zero"] * scale
    else:
        scale, offset = scale.float(), tensors[f"{name}.offset"].float()
    if name == "keys" and counts is not None:
        sizes = _sizes(counts, facts["group"])
        return made.mul_(scale.repeat_interleave(sizes, 0)).add_(offset.repeat_interleave(sizes, 0))
    axis = -2 if name == "keys" else -1
    size = made.shape[axis]
    group = facts["group"] or size
    for place, start in enumerate(range(0, size, group)):
        part = made.narrow(axis, start, min(group, size - start))
        part.mul_(scale.narrow(axis, place, 1)).add_(offset.narrow(axis, place, 1))
    return made


def _sizes(counts: Tensor, group: int | None) -> Tensor:
    """Return how many rows of keys share each row of scales."""
    import torch

    counts = counts.long().flatten()
    if group is None:
        return counts
    starts = torch.arange(0, int(counts.max()), group)
    sizes = (counts[:, None] - starts).clamp(0, group)
    return sizes[sizes > 0]


def _packed(codes: Tensor, name: str, form: Form) -> Tensor:
    """Put codes in as few bytes as they need.

    Rows of bits: code i of N, n = ceil(N / 8), is the `i // n`-th of 8 in column `i % n`. The rows of a column are the
    bytes of one number of `8 * bits` bits, little-endian, in which the j-th code begins at bit `j * bits`.
    """
    import torch

    bits = form.bits[name]
    if not form.is_small:
        return codes if bits == 8 else _nibbles(codes)
    flat = codes.flatten()
    parts = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(8, -1)
    rows = torch.zeros(bits, parts.shape[1], dtype=torch.uint8)
    for part, row, shift in _meetings(bits):
        rows[row] |= parts[part] << shift if shift >= 0 else parts[part] >> -shift
    return rows


def _codes(packed: Tensor, shape: Sequence[int], bits: int, form: Form) -> Tensor:
    """Return codes one to a byte; see `_packed`."""
    import torch

    if not form.is_small:
        pairs = packed if bits == 8 else torch.stack([packed & 15, packed >> 4], dim=-1).flatten()
    else:
        pairs = torch.zeros(8, packed.shape[1], dtype=torch.uint8)
        for part, row, shift in _meetings(bits):
            pairs[part] |= packed[row] >> shift if shift >= 0 else packed[row] << -shift
        pairs &= 2**bits - 1
    return pairs.flatten()[: math.prod(shape)].view(list(shape))


def _meetings(bits: int) -> list[tuple[int, int, int]]:
    """Return which of 8 codes has bits in which of the bytes, and how far left its first bit is in it."""
    places = [(part, row, part * bits - row * 8) for part in range(8) for row in range(bits)]
    return [place for place in places if -bits < place[2] < 8]


def _nibbles(codes: Tensor) -> Tensor:
    """Put two 4-bit codes in a byte."""
    import torch

    flat = torch.nn.functional.pad(codes.flatten(), (0, codes.numel() % 2))
    return flat[0::2] | (flat[1::2] << 4)


def _padded(tensor: Tensor, counts: Tensor | None) -> Tensor:
    """Fill up each head with its first memory token, which changes no range that is stored."""
    import torch

    if counts is None:
        return tensor
    real = torch.arange(tensor.shape[2]) < counts[..., None]
    return torch.where(real[..., None], tensor, tensor[:, :, :1])


def _real_rows(name: str, group: int | None, counts: Tensor, width: int) -> Tensor:
    """Return which rows of a tensor stand for any real memory token, `[L, K, rows]` bool."""
    import torch

    shared = name.startswith("keys.")  # a range of keys stands for many memory tokens
    group = (group or width) if shared else 1
    return torch.arange(math.ceil(width / group)) * group < counts[..., None]


def _unpacked(tensor: Tensor, real: Tensor) -> Tensor:
    """Put rows `[N, ...]` in their places and zeros elsewhere, `[L, K, rows, ...]`."""
    import torch

    full = torch.zeros(*real.shape, *tensor.shape[1:], dtype=tensor.dtype)
    full[real] = tensor
    return full


def _grouped(tensor: Tensor, dim: int, group: int) -> Tensor:
    """Cut `dim` into groups, `[..., groups, group, ...]`; repeating the last row fills up and changes no range."""
    import torch

    shape = tensor.shape
    rows = torch.arange(math.ceil(shape[dim] / group) * group).clamp(max=shape[dim] - 1)
    return tensor.index_select(dim, rows).view(*shape[:dim], -1, group, *shape[dim + 1 :])


def _spread(parts: Tensor, dim: int, group: int, size: int) -> Tensor:
    """Give every row along `dim` its group's part; one group for all is left to broadcasting."""
    if parts.shape[dim] == 1:
        return parts
    return parts.repeat_interleave(group, dim).narrow(dim, 0, size)


def _half_below(tensor: Tensor) -> Tensor:
    """Return the float16 numbers at or just below float32 ones."""
    import torch

    nearest = tensor.half()
    # half a unit in the last place is at most 2^-11 of a number, and 2^-25 of those next to zero
    below = (tensor - tensor.abs() * 2.0**-11 - 2.0**-25).half()
    return torch.where(nearest.float() <= tensor, nearest, below)


def _byte_above(scale: Tensor) -> Tensor:
    """Return the upper 8 bits of the float16 at or just above a float32 that is not negative, without its sign."""
    import torch

    above = -_half_below(-scale)
    return ((above.view(torch.int16) + 127) >> 7).to(torch.uint8)


def _of_byte(scale: Tensor) -> Tensor:
    """Return the float32 that such a byte stands for."""
    import torch

    return (scale.to(torch.int16) << 7).view(torch.float16).float()
