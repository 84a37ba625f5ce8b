"""Blocks as they are stored: native, 8 bits or 4 bits, and back.

Readers always get the de-quantised block, also right after it was stored: disk and memory agree.
Keys are quantised per channel and values per token, as their outliers lie (KIVI, arXiv:2402.02750).
Deviation: keys are quantised before rotary embedding, over all memory tokens of a block at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a bank can be inspected without torch
    from torch import Tensor

    from memrecall_kv.types import MemoryBlock

Storage = Literal["native", "int8", "int4"]
_LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True, eq=False)
class StoredBlock:
    """What is written of a block.

    Attributes:
        tensors: By name. Codes are uint8 of the shape of what they stand for, two in a byte for `int4`;
            scales and offsets are float16.
        facts: JSON values needed to read the tensors: storage, dtype, shape, extent, source tokens.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, object]


def quantize(block: MemoryBlock, storage: Storage) -> StoredBlock:
    """Return a block as it is stored; `native` if its numbers exceed what float16 scales can hold."""
    import torch

    largest = max(float(block.keys.abs().max()), float(block.values.abs().max()))
    storage = "native" if largest >= _LARGEST_FLOAT16 else storage
    narrow = torch.int16 if block.extent < 2**15 else torch.int32
    tensors = {"positions": block.positions.to(narrow).cpu()}
    for name, tensor, dim in (("keys", block.keys, 2), ("values", block.values, 3)):
        if storage == "native":
            tensors[name] = tensor.cpu()
        else:
            tensors.update(_encode(name, tensor.cpu().float(), dim, bits=8 if storage == "int8" else 4))
    facts = {
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
    dtype = getattr(torch, str(facts["dtype"]))
    shape = [int(size) for size in facts["shape"]]  # type: ignore[attr-defined]  # JSON list
    if facts["storage"] == "native":
        keys, values = stored.tensors["keys"], stored.tensors["values"]
    else:
        keys, values = (
            _decode(name, stored.tensors, shape, packed=facts["storage"] == "int4") for name in ("keys", "values")
        )
    return MemoryBlock(
        keys=keys.to(dtype),
        values=values.to(dtype),
        positions=stored.tensors["positions"].to(torch.int32),
        extent=int(str(facts["extent"])),
        num_source_tokens=int(str(facts["source_tokens"])),
    )


def _encode(name: str, tensor: Tensor, dim: int, bits: int) -> dict[str, Tensor]:
    """Return codes, scales and offsets; the range is taken along `dim` (2: per channel, 3: per token)."""
    import torch

    levels = 2**bits - 1
    offset = tensor.amin(dim=dim, keepdim=True).half().float()
    # computed from the rounded offset, so that rounding it costs no range
    scale = ((tensor.amax(dim=dim, keepdim=True) - offset).clamp_min(0) / levels).half().float()
    codes = torch.where(scale > 0, (tensor - offset) / scale.clamp_min(1e-7), torch.zeros_like(tensor))
    codes = codes.round().clamp(0, levels).to(torch.uint8)
    if bits == 4:
        flat = torch.nn.functional.pad(codes.flatten(), (0, codes.numel() % 2))
        codes = flat[0::2] | (flat[1::2] << 4)
    return {name: codes, f"{name}.scale": scale.half(), f"{name}.offset": offset.half()}


def _decode(name: str, tensors: dict[str, Tensor], shape: list[int], *, packed: bool) -> Tensor:
    import math

    import torch

    codes = tensors[name]
    if packed:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten()[: math.prod(shape)].view(shape)
    return codes.float() * tensors[f"{name}.scale"].float() + tensors[f"{name}.offset"].float()
