"""What is read of a stored block is close to what was made, by a bound that can be computed."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memrecall_kv.bank import layout, segment
from memrecall_kv.bank.quantize import Storage, StoredBlock, dequantize, quantize, turned
from memrecall_kv.errors import BlockCorruptError
from memrecall_kv.types import MemoryBlock

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LEVELS = {"int8": 255, "int4": 15}
GROUPS = {"int8": 10**6, "int4": 32, "k4v4": 64, "k4v3": 64}
SMALL = {"k4v4": {"keys": 4, "values": 4}, "k4v3": {"keys": 4, "values": 3}}


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


def scale_of(stored: StoredBlock, name: str) -> torch.Tensor:
    scale = stored.tensors[f"{name}.scale"]
    return ((scale.to(torch.int16) << 7).view(torch.float16) if scale.dtype == torch.uint8 else scale).float()


def coded(storage: Storage, tensor: torch.Tensor) -> torch.Tensor:
    """Return the numbers that codes stand for."""
    return turned(tensor.float()) if storage in SMALL else tensor.float()


@pytest.mark.parametrize("storage", GROUPS)
@settings(max_examples=60, deadline=None)
@given(made=blocks())
def test_no_number_is_off_by_more_than_half_a_scale(storage: Storage, made: MemoryBlock) -> None:
    stored = quantize(made, storage)
    read = dequantize(stored)
    if stored.facts["storage"] == "native":
        assert storage in SMALL
        peaks = [float(coded(storage, tensor).abs().max()) for tensor in (made.keys, made.values)]
        assert min(peaks) < 2**-9 or max(peaks) >= 2**15
        assert torch.equal(read.keys, made.keys)
        return
    for name, dim in (("keys", 2), ("values", 3)):
        before, after = getattr(made, name), getattr(read, name)
        assert after.dtype == before.dtype
        assert after.shape == before.shape
        scale = scale_of(stored, name)
        if scale.shape[dim] > 1:
            scale = scale.repeat_interleave(GROUPS[storage], dim).narrow(dim, 0, before.shape[dim])
        kind, largest = torch.finfo(before.dtype), before.float().abs().max()
        # what is rounded to the block's dtype is the number that is read back
        rounded = torch.maximum(before.float().abs(), after.float().abs())
        rounding = rounded * kind.eps + kind.smallest_normal * kind.eps + largest * 3e-7
        if storage in SMALL:  # a number that is turned has a part of each of its row
            rounding = rounding.sum(dim=-1, keepdim=True)
        assert bool(((coded(storage, before) - coded(storage, after)).abs() <= scale * 0.501 + rounding).all())


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_a_scale_is_the_range_of_its_neighbours_over_the_levels(storage: Storage) -> None:
    made = make(noise(2, 3, 16, 24))
    stored = quantize(made, storage)
    for name, dim in (("keys", 2), ("values", 3)):
        tensor = getattr(made, name)
        step = (tensor.amax(dim, keepdim=True) - tensor.amin(dim, keepdim=True)) / LEVELS[storage]
        torch.testing.assert_close(stored.tensors[f"{name}.scale"].float(), step, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("storage", SMALL)
@pytest.mark.parametrize("shift", [0.0, 3.0, -40.0])
def test_a_scale_of_a_byte_is_at_most_an_eighth_above_what_its_neighbours_need(storage: Storage, shift: float) -> None:
    made = make(noise(2, 3, 64, 64) + shift)
    stored = quantize(made, storage)
    for name, dim in (("keys", 2), ("values", 3)):
        tensor = coded(storage, getattr(made, name))
        lowest, highest = tensor.amin(dim, keepdim=True), tensor.amax(dim, keepdim=True)
        needed = torch.maximum((highest - lowest) / (2 ** SMALL[storage][name] - 1), lowest.abs() / 127)
        ratio = scale_of(stored, name) / needed
        assert float(ratio.min()) >= 1.0
        assert float(ratio.max()) < 1.127


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_storage_is_exact(dtype: torch.dtype) -> None:
    made = make(noise(2, 2, 7, 5, dtype=dtype))
    read = dequantize(quantize(made, "native"))
    assert torch.equal(read.keys, made.keys)
    assert torch.equal(read.values, made.values)
    assert read.keys.dtype == dtype


@pytest.mark.parametrize("storage", get_args(Storage))
@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 63, 64, 65, 129])
def test_any_number_of_memory_tokens_can_be_stored(storage: Storage, tokens: int) -> None:
    made = make(noise(1, 1, tokens, 3))
    read = dequantize(quantize(made, storage))
    bound = {"native": 1e-9, "int8": 0.02, "int4": 0.3, "k4v4": 0.3, "k4v3": 0.5}[storage]
    assert worst(made.keys, read.keys) < bound
    assert worst(made.values, read.values) < bound


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize("constant", [0.0, 1.0, -0.1, 1e-7, 20000.0])
def test_constant_channels_come_back(storage: Storage, constant: float) -> None:
    made = make(torch.full((2, 1, 40, 8), constant))
    read = dequantize(quantize(made, storage))
    torch.testing.assert_close(read.keys, made.keys, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("storage", SMALL)
@pytest.mark.parametrize("constant", [1.0, -0.1, 3e-3, 10000.0])
def test_constant_channels_come_back_to_a_254th_where_a_scale_is_a_byte(storage: Storage, constant: float) -> None:
    made = make(torch.full((2, 1, 40, 8), constant))
    stored = quantize(made, storage)
    assert stored.facts["storage"] == storage
    torch.testing.assert_close(dequantize(stored).keys, made.keys, rtol=1.127 / 254, atol=0)


@pytest.mark.parametrize("storage", GROUPS)
def test_zeros_come_back_as_zeros(storage: Storage) -> None:
    read = dequantize(quantize(make(torch.zeros(1, 2, 3, 4)), storage))
    assert not read.keys.any()
    assert not read.values.any()


@pytest.mark.parametrize("storage", GROUPS)
@pytest.mark.parametrize("large", [80000.0, 1e30, -3.4e38, math.inf, math.nan])
def test_numbers_that_float16_cannot_hold_are_stored_as_they_are(large: float, storage: Storage) -> None:
    keys = noise(1, 1, 4, 4)
    keys[0, 0, 0, 0] = large
    stored = quantize(make(keys), storage)
    assert stored.facts["storage"] == "native"
    assert dequantize(stored).keys.nan_to_num(7).equal(keys.nan_to_num(7))
    assert stored.facts["group"] is None


@pytest.mark.parametrize("storage", SMALL)
def test_numbers_too_small_for_a_scale_of_a_byte_are_stored_as_they_are(storage: Storage) -> None:
    for keys, values in ((noise(1, 2, 4, 4) * 1e-5, noise(1, 2, 4, 4)), (noise(1, 2, 4, 4), noise(1, 2, 4, 4) * 1e-5)):
        stored = quantize(make(keys, values), storage)
        assert stored.facts["storage"] == "native"
        assert torch.equal(dequantize(stored).values, values)


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


@pytest.mark.parametrize("storage", get_args(Storage))
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
    assert size(quantize(made, "k4v4")) < 0.27 * native
    assert size(quantize(made, "k4v3")) < 0.24 * native


@pytest.mark.parametrize("storage", ["int4", "k4v4", "k4v3"])
def test_tensors_that_are_views_are_stored_whole(storage: Storage) -> None:
    keys = noise(2, 4, 3, 5).transpose(1, 3).transpose(2, 3)
    read = dequantize(quantize(make(keys), storage))
    assert worst(keys, read.keys) < 0.3


def by_the_book(packed: np.ndarray, count: int) -> np.ndarray:
    """Return codes as the documentation says they are packed, by Python's integers."""
    bits, columns = packed.shape
    codes = [
        (int.from_bytes(packed[:, column].tobytes(), "little") >> (part * bits)) & (2**bits - 1)
        for part in range(8)
        for column in range(columns)
    ]
    return np.array(codes[:count])


@pytest.mark.parametrize("storage", SMALL)
@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0))
def test_packed_codes_take_their_bits_and_no_more_and_come_back_exactly(
    storage: Storage, shape: tuple[int, int, int, int], seed: int
) -> None:
    """Whole numbers up to the largest code, with both ends in every channel and token, are their own codes."""
    source, count = np.random.default_rng(seed), math.prod(shape)
    tensors = {}
    for name, bits in SMALL[storage].items():
        codes = source.integers(0, 2**bits, shape)
        codes[:, :, 0] = codes[..., 0] = 0
        codes[:, :, -1:], codes[..., -1:] = 2**bits - 1, 2**bits - 1
        tensors[name] = torch.from_numpy(codes)
    made = make(turned(tensors["keys"].float()), turned(tensors["values"].float()))
    stored = quantize(made, storage)
    read = dequantize(stored)
    for name, bits in SMALL[storage].items():
        packed = stored.tensors[name].numpy()
        assert packed.shape == (bits, math.ceil(count / 8))
        expected = tensors[name].numpy()
        scale, zero = scale_of(stored, name).numpy(), stored.tensors[f"{name}.zero"].numpy().astype(float)
        book = (by_the_book(packed, count).reshape(shape) + zero) * scale
        np.testing.assert_allclose(turned(getattr(read, name)).numpy(), book, rtol=1e-5, atol=1e-5)
        # a scale of a byte is exact only for powers of two and a few more: half of one is the bound
        assert np.all(np.abs(book - expected) <= scale * 0.501)


def test_a_record_that_does_not_say_its_groups_is_read_as_those_of_earlier_releases() -> None:
    made = make(noise(1, 2, 70, 40))
    for storage in ("native", "int8", "int4"):
        record = segment.pack(bytes(16), quantize(made, storage), bytes(16))
        table, tensors = segment._parts(record, segment._header(record))
        content = json.loads(bytes(table))
        assert content["facts"].pop("group") == {"int4": 32}.get(storage)
        old = segment._sealed(json.dumps(content).encode(), bytes(tensors), bytes(16), bytes(16))
        expected, read = (dequantize(segment.unpack(part, "d#0")) for part in (record, old))
        assert torch.equal(read.keys, expected.keys)
        assert torch.equal(read.values, expected.values)


@pytest.mark.parametrize("storage", SMALL)
def test_a_small_record_that_does_not_say_so_was_not_turned(storage: Storage) -> None:
    keys, values = noise(1, 2, 70, 48), noise(1, 2, 70, 48, seed=1)
    stored = quantize(make(turned(keys), turned(values)), storage)
    assert stored.facts.pop("turned") is True
    old = segment.unpack(segment.pack(bytes(16), stored, bytes(16)), "d#0")
    assert old.facts["turned"] is False
    read = dequantize(old)
    assert worst(keys, read.keys) < 0.3
    assert worst(values, read.values) < 0.5


@pytest.mark.parametrize("dim", [1, 5, 48, 64, 80, 96, 128])
def test_what_is_turned_twice_is_what_it_was_and_keeps_its_lengths(dim: int) -> None:
    tensor = noise(2, 1, 9, dim)
    torch.testing.assert_close(turned(turned(tensor)), tensor, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turned(tensor).norm(dim=-1), tensor.norm(dim=-1))
    spread = turned(torch.eye(dim)).abs()
    assert torch.equal(spread.amax(dim=-1) < 1, torch.full((dim,), dim % 2 == 0))


def test_an_outlier_of_each_token_blurs_the_others_less_when_they_are_turned() -> None:
    values = noise(1, 1, 64, 64)
    values[..., 7] *= 30
    plain = quantize(make(turned(values), turned(values)), "k4v4")
    plain.facts["turned"] = False
    gaps = [
        float((dequantize(stored).values - values).abs().mean()) for stored in (quantize(make(values), "k4v4"), plain)
    ]
    assert gaps[0] < gaps[1] / 2


@pytest.mark.parametrize(("storage", "said"), [("int8", True), ("native", True), ("k4v3", 1), ("k4v3", None)])
def test_a_record_that_says_of_itself_that_it_was_turned_and_cannot_be_is_refused(
    storage: Storage, said: object
) -> None:
    stored = quantize(make(noise(1, 1, 6, 6)), storage)
    stored.facts["turned"] = said
    with pytest.raises(BlockCorruptError, match="damaged"):
        segment.unpack(segment.pack(bytes(16), stored, bytes(16)), "d#0")


@pytest.mark.parametrize("storage", ["int8", "int4", "k4v4", "k4v3"])
@pytest.mark.parametrize("group", [1, 7, 64, 1000])
def test_groups_of_any_size_are_read_as_the_record_says(
    storage: Storage, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = layout.FORMS[storage]
    other = {**layout.FORMS, storage: layout.Form(form.bits, group, form.is_small)}
    monkeypatch.setattr("memrecall_kv.bank.quantize.FORMS", other)
    made = make(noise(1, 2, 70, 9))
    record = segment.pack(bytes(16), quantize(made, storage), bytes(16))
    monkeypatch.undo()
    read = dequantize(segment.unpack(record, "d#0"))
    assert worst(made.keys, read.keys) < 0.35
    assert worst(made.values, read.values) < 0.6


def test_smaller_groups_and_more_bits_are_never_worse() -> None:
    made = make(noise(2, 2, 100, 64))
    gaps = [worst(made.values, dequantize(quantize(made, storage)).values) for storage in ("int8", "k4v4", "k4v3")]
    assert all(one < other for one, other in pairwise(gaps))


@pytest.mark.parametrize("storage", SMALL)
@pytest.mark.parametrize("byte", [0xF8, 0xF9, 0xFF])
def test_scales_that_are_infinite_or_no_numbers_do_not_pass(storage: Storage, byte: int) -> None:
    stored = quantize(make(noise(1, 1, 4, 4)), storage)
    stored.tensors["keys.scale"][0] = byte
    stored.tensors["keys.zero"][0] = 1
    assert not bool(dequantize(stored).keys.isfinite().all())  # which the bank refuses


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("keys", torch.zeros(4, 4, dtype=torch.uint8)),
        ("keys", torch.zeros(3, 5, dtype=torch.uint8)),
        ("values", torch.zeros(4, 5, dtype=torch.uint8)),
        ("values", torch.zeros(3, 5, dtype=torch.int8)),
        ("keys.scale", torch.zeros(1, 1, 1, 6, dtype=torch.float16)),
        ("keys.scale", torch.zeros(1, 1, 2, 6, dtype=torch.uint8)),
        ("keys.zero", torch.zeros(1, 1, 1, 6, dtype=torch.uint8)),
        ("values.zero", torch.zeros(1, 1, 6, 2, dtype=torch.int8)),
        ("values.offset", torch.zeros(1, 1, 6, 1, dtype=torch.float16)),
    ],
)
def test_a_record_with_other_tensors_than_its_form_has_is_refused(name: str, changed: torch.Tensor) -> None:
    stored = quantize(make(noise(1, 1, 6, 6)), "k4v3")
    stored.tensors[name] = changed
    with pytest.raises(BlockCorruptError, match="damaged"):
        segment.unpack(segment.pack(bytes(16), stored, bytes(16)), "d#0")


@pytest.mark.parametrize("group", [0, -1, True, "64", 2**40, 64.0, [64], 3])
def test_groups_that_no_record_has_are_refused(group: object) -> None:
    stored = quantize(make(noise(1, 1, 6, 6)), "k4v4")
    stored.facts["group"] = group
    with pytest.raises(BlockCorruptError, match="damaged"):
        segment.unpack(segment.pack(bytes(16), stored, bytes(16)), "d#0")
