"""Blocks as they are stored: native, 8 bits or 4 bits, and back.

Readers always get the de-quantised block, also right after it was stored: disk and memory agree.

Source: KIVI, arXiv:2402.02750: keys are quantised per channel and values per token, as their outliers lie.
Deviations:

1. Keys are quantised before rotary embedding, over all memory tokens of a block at once (8 bits).
2. Codes are asymmetric also at 8 bits: on SmolLM2-135M's keys the relative error is 0.0026, symmetric 0.0042.
3. With 4 bits a scale stands for at most 32 neighbours: 0.039 instead of 0.044 for keys, 0.082 instead of 0.096
   for values, at 0.07 bytes more per number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memrecall_kv.bank.layout import GROUP, Facts, Storage

if TYPE_CHECKING:  # a bank can be inspected without torch
    from torch import Tensor

    from memrecall_kv.types import MemoryBlock

_KEYS, _VALUES = ("keys", 2), ("values", 3)
"""Tensors and the dimension of `[L, K, M, D]` that shares a scale."""
_LARGEST = 2.0**15
"""Numbers from here on, half of what float16 can hold, leave no room for a range: they are stored as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredBlock:
    """What is written of a block.

    Attributes:
        tensors: By name, on the CPU. `positions` is int16, or int32 for long chunks: `[1, 1, M]` or `[L, K, M]`.
            `keys` and `values` are, `[L, K, M, D]`, native numbers or uint8 codes; with `int4` two codes in a byte,
            `[ceil(L*K*M*D / 2)]`, the earlier one in the low bits. A code stands for `code * scale + offset`, both
            float16. With `int8` `keys.scale` and `keys.offset` are `[L, K, 1, D]`, `values.scale` and
            `values.offset` `[L, K, M, 1]`; with `int4` `[L, K, ceil(M/32), D]` and `[L, K, M, ceil(D/32)]`.
            Where heads keep different numbers, `counts` is `[L, K]` and of the other tensors only the rows of real
            memory tokens are held, `[N, ...]`, layer after layer and head after head.
        facts: How to read the tensors.
    """

    tensors: dict[str, Tensor]
    facts: Facts


def quantize(block: MemoryBlock, storage: Storage) -> StoredBlock:
    """Return a block as it is stored; `native` if its numbers exceed what float16 scales can hold.

    Args:
        block: Finite keys and values, on any device, in any floating dtype.
        storage: How to store them. The error is at most half a scale: a range of neighbours / 510 with `int8`,
            / 30 with `int4`, plus what rounding to the block's dtype costs.
    """
    import torch

    largest = max(float(block.keys.abs().max()), float(block.values.abs().max()))
    storage = "native" if largest >= _LARGEST else storage
    narrow = torch.int16 if block.extent < 2**15 else torch.int32
    tensors = {"positions": block.positions.to(narrow).cpu()}
    counts = None if block.counts is None else block.counts.cpu()
    for (name, dim), tensor in ((_KEYS, block.keys.cpu()), (_VALUES, block.values.cpu())):
        if storage == "native":
            tensors[name] = tensor
        elif storage == "int8":
            tensors |= _encode(name, _padded(tensor.float(), counts), dim, bits=8, group=tensor.shape[dim])
        else:
            tensors |= _encode(name, _padded(tensor.float(), counts), dim, bits=4, group=GROUP)
    if counts is not None:
        packed = {name: t[_real_rows(name, storage, counts, block.width)] for name, t in tensors.items()}
        tensors = {**packed, "counts": counts.to(narrow)}
    if storage == "int4":
        tensors |= {name: _nibbles(tensors[name]) for name, _ in (_KEYS, _VALUES)}
    facts: Facts = {
        "storage": storage,
        "dtype": str(block.keys.dtype).removeprefix("torch."),
        "shape": list(block.keys.shape),
        "extent": block.extent,
        "source_tokens": block.num_source_tokens,
    }
    return StoredBlock({name: tensor.contiguous() for name, tensor in tensors.items()}, facts)


def dequantize(stored: StoredBlock) -> MemoryBlock:
    """Return a stored block in the dtype it was made in."""
    import torch

    from memrecall_kv.types import MemoryBlock

    facts = stored.facts
    dtype = getattr(torch, facts["dtype"])
    decode = _native if facts["storage"] == "native" else _decode
    tensors, counts = dict(stored.tensors), stored.tensors.get("counts")
    if facts["storage"] == "int4":
        tensors |= {name: _codes(tensors[name], facts["shape"], counts) for name, _ in (_KEYS, _VALUES)}
    if counts is not None:
        del tensors["counts"]
        width = facts["shape"][2]
        tensors = {n: _unpacked(t, _real_rows(n, facts["storage"], counts, width)) for n, t in tensors.items()}
    return MemoryBlock(
        keys=decode(tensors, *_KEYS).to(dtype),
        values=decode(tensors, *_VALUES).to(dtype),
        positions=tensors["positions"].to(torch.int32),
        extent=facts["extent"],
        num_source_tokens=facts["source_tokens"],
        counts=None if counts is None else counts.to(torch.int32),
    )


def _encode(name: str, tensor: Tensor, dim: int, *, bits: int, group: int) -> dict[str, Tensor]:
    """Return codes, scales and offsets of a float32 `[L, K, M, D]`, one range per `group` neighbours along `dim`."""
    import torch

    levels = 2**bits - 1
    ranges = _grouped(tensor, dim, group)
    offset = _half_below(ranges.amin(dim + 1))
    # from the rounded offset and rounded up, so that no number falls outside its range
    scale = -_half_below((offset.float() - ranges.amax(dim + 1)) / levels)
    low, step = (_spread(part.float(), dim, group, tensor.shape[dim]) for part in (offset, scale))
    codes = ((tensor - low) / torch.where(step > 0, step, 1.0)).round().clamp(0, levels).to(torch.uint8)
    return {name: codes, f"{name}.scale": scale, f"{name}.offset": offset}


def _decode(tensors: Mapping[str, Tensor], name: str, dim: int) -> Tensor:
    """Return float32 `[L, K, M, D]`."""
    codes = tensors[name]
    scale, offset = (
        _spread(tensors[f"{name}.{part}"].float(), dim, GROUP, codes.shape[dim]) for part in ("scale", "offset")
    )
    return codes.float().mul_(scale).add_(offset)


def _native(tensors: Mapping[str, Tensor], name: str, _: int) -> Tensor:
    return tensors[name]


def _nibbles(codes: Tensor) -> Tensor:
    """Put two 4-bit codes in a byte."""
    import torch

    flat = torch.nn.functional.pad(codes.flatten(), (0, codes.numel() % 2))
    return flat[0::2] | (flat[1::2] << 4)


def _codes(pairs: Tensor, shape: Sequence[int], counts: Tensor | None) -> Tensor:
    """Return 4-bit codes one to a byte, `[L, K, M, D]`, or `[N, D]` where heads keep different numbers."""
    import torch

    full = list(shape) if counts is None else [int(counts.sum()), shape[3]]
    return torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten()[: math.prod(full)].view(full)


def _padded(tensor: Tensor, counts: Tensor | None) -> Tensor:
    """Fill up each head with its first memory token, which changes no range that is stored."""
    import torch

    if counts is None:
        return tensor
    real = torch.arange(tensor.shape[2]) < counts[..., None]
    return torch.where(real[..., None], tensor, tensor[:, :, :1])


def _real_rows(name: str, storage: Storage, counts: Tensor, width: int) -> Tensor:
    """Return which rows of a tensor stand for any real memory token, `[L, K, rows]` bool."""
    import torch

    shared = name.startswith("keys.")  # a range of keys stands for many memory tokens
    group = {"int8": width, "int4": GROUP}[storage] if shared else 1
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
