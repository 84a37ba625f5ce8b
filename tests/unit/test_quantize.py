"""What is read of a stored block is close to what was made, by a bound that can be computed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memrecall_kv.bank.quantize import Storage, StoredBlock, dequantize, quantize
from memrecall_kv.types import MemoryBlock

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LEVELS = {"int8": 255, "int4": 15}


def make(keys: torch.Tensor, values: torch.Tensor | None = None, extent: int = 64) -> MemoryBlock:
    positions = torch.arange(keys.shape[2], dtype=torch.int32)[None, None]
    return MemoryBlock(keys, keys.flip(0) if values is None else values, positions, extent, extent)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def worst(made: torch.Tensor, read: torch.Tensor) -> float:
    return float((made.float() - read.float()).abs().max())


@st.composite
def blocks(draw: st.DrawFn) -> MemoryBlock:
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 70))]
    scale = 10.0 ** draw(st.integers(-6, 3))
    shift = draw(st.sampled_from([0.0, 1.0, -300.0]))
    dtype = draw(st.sampled_from(DTYPES))
    keys, values = (noise(*shape, seed=draw(st.integers(0, 99))) * scale + shift for _ in range(2))
    return make(keys.to(dtype), values.to(dtype))


@pytest.mark.parametrize("storage", ["int8", "int4"])
@settings(max_examples=60, deadline=None)
@given(made=blocks())
def test_no_number_is_off_by_more_than_half_a_scale(storage: Storage, made: MemoryBlock) -> None:
    stored = quantize(made, storage)
    read = dequantize(stored)
    for name, dim in (("keys", 2), ("values", 3)):
        before, after = getattr(made, name), getattr(read, name)
        assert after.dtype == before.dtype
        assert after.shape == before.shape
        scale = stored.tensors[f"{name}.scale"].float()
        if scale.shape[dim] > 1:
            scale = scale.repeat_interleave(32, dim).narrow(dim, 0, before.shape[dim])
        kind, largest = torch.finfo(before.dtype), before.float().abs().max()
        # what is rounded to the block's dtype is the number that is read back
        rounded = torch.maximum(before.float().abs(), after.float().abs())
        rounding = rounded * kind.eps + kind.smallest_normal * kind.eps + largest * 3e-7
        assert bool(((before.float() - after.float()).abs() <= scale * 0.501 + rounding).all())


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_scale_is_the_range_of_its_neighbours_over_the_levels(storage: Storage) -> None:
    made = make(noise(2, 3, 16, 24))
    stored = quantize(made, storage)
    for name, dim in (("keys", 2), ("values", 3)):
        tensor = getattr(made, name)
        step = (tensor.amax(dim, keepdim=True) - tensor.amin(dim, keepdim=True)) / LEVELS[storage]
        torch.testing.assert_close(stored.tensors[f"{name}.scale"].float(), step, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_storage_is_exact(dtype: torch.dtype) -> None:
    made = make(noise(2, 2, 7, 5, dtype=dtype))
    read = dequantize(quantize(made, "native"))
    assert torch.equal(read.keys, made.keys)
    assert torch.equal(read.values, made.values)
    assert read.keys.dtype == dtype


@pytest.mark.parametrize("storage", ["native", "int8", "int4"])
@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 64, 65])
def test_any_number_of_memory_tokens_can_be_stored(storage: Storage, tokens: int) -> None:
    made = make(noise(1, 1, tokens, 3))
    read = dequantize(quantize(made, storage))
    assert worst(made.keys, read.keys) < {"native": 1e-9, "int8": 0.02, "int4": 0.3}[storage]


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize("constant", [0.0, 1.0, -0.1, 1e-7, 20000.0])
def test_constant_channels_come_back(storage: Storage, constant: float) -> None:
    made = make(torch.full((2, 1, 40, 8), constant))
    read = dequantize(quantize(made, storage))
    torch.testing.assert_close(read.keys, made.keys, rtol=1e-4, atol=1e-7)


def test_zeros_come_back_as_zeros() -> None:
    read = dequantize(quantize(make(torch.zeros(1, 2, 3, 4)), "int8"))
    assert not read.keys.any()
    assert not read.values.any()


@pytest.mark.parametrize("large", [40000.0, 1e30])
def test_numbers_that_float16_cannot_hold_are_stored_as_they_are(large: float) -> None:
    keys = noise(1, 1, 4, 4)
    keys[0, 0, 0, 0] = large
    stored = quantize(make(keys), "int8")
    assert stored.facts["storage"] == "native"
    assert torch.equal(dequantize(stored).keys, keys)


def test_an_outlier_channel_does_not_blur_its_neighbours() -> None:
    keys = noise(1, 1, 64, 64)
    keys[..., 7] = keys[..., 7] * 100 + 500
    read = dequantize(quantize(make(keys), "int8"))
    others = [channel for channel in range(64) if channel != 7]
    assert worst(keys[..., others], read.keys[..., others]) < 0.02


def test_groups_of_neighbours_make_four_bits_better_than_one_range_for_all() -> None:
    keys = noise(1, 1, 64, 64)
    keys[:, :, 32:] *= 10
    read = dequantize(quantize(make(keys), "int4"))
    assert worst(keys[:, :, :32], read.keys[:, :, :32]) < 0.3


@pytest.mark.parametrize("storage", ["native", "int8", "int4"])
@pytest.mark.parametrize(("extent", "dtype"), [(32767, torch.int16), (32768, torch.int32)])
def test_positions_keep_their_shape_and_numbers(storage: Storage, extent: int, dtype: torch.dtype) -> None:
    positions = torch.tensor([[[0, 5, extent - 1]] * 2] * 3, dtype=torch.int32)
    keys = noise(3, 2, 3, 4)
    stored = quantize(MemoryBlock(keys, keys, positions, extent, 9), storage)
    assert stored.tensors["positions"].dtype == dtype
    read = dequantize(stored)
    assert torch.equal(read.positions, positions)
    assert read.positions.dtype == torch.int32
    assert (read.extent, read.num_source_tokens) == (extent, 9)


def test_eight_bits_take_half_of_bfloat16_and_four_bits_a_third() -> None:
    made = make(noise(4, 3, 64, 64, dtype=torch.bfloat16))

    def size(stored: StoredBlock) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in stored.tensors.values())

    native = size(quantize(made, "native"))
    assert size(quantize(made, "int8")) < 0.54 * native
    assert size(quantize(made, "int4")) < 0.33 * native


def test_tensors_that_are_views_are_stored_whole() -> None:
    keys = noise(2, 4, 3, 5).transpose(1, 3).transpose(2, 3)
    read = dequantize(quantize(make(keys), "int4"))
    assert worst(keys, read.keys) < 0.3
