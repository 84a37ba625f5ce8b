"""Banks of every released format load and give the numbers they gave when they were made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from make_bank import FINGERPRINT, TEXT, summary
from memrecall_kv.bank import MemoryBank
from memrecall_kv.types import Document

HERE = Path(__file__).parent


@pytest.fixture(params=sorted(HERE.glob("bank-v*.json")), ids=lambda file: file.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[dict]]:
    """Return a copy, since SQLite writes beside a catalogue even when it is only read."""
    file: Path = request.param
    return shutil.copytree(HERE / file.stem, tmp_path / file.stem), json.loads(file.read_text())


def test_an_old_bank_gives_the_same_numbers(old: tuple[Path, list[dict]]) -> None:
    path, expected = old
    with MemoryBank.open(path, fingerprint=FINGERPRINT, read_only=True) as bank:
        assert bank.documents() == [Document("hb/1#ü", TEXT, {"page": 1, "tags": ["a", None]})]
        assert "".join(chunk.text for chunk in bank.chunks()) == TEXT
        assert bank.verify() == len(expected)
        for block, numbers in zip(bank.blocks(bank.chunks()), expected, strict=True):
            got = summary(block)
            for name in ("first_keys", "last_values", "squares"):
                assert got.pop(name) == pytest.approx(numbers.pop(name), rel=1e-6)
            assert got == numbers


def documented_reader() -> Callable[[Path, str, int], dict[str, np.ndarray]]:
    page = (HERE.parents[1] / "docs" / "bank-format.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope: dict = {}
    exec(compile(snippet, "bank-format.md", "exec"), scope)  # noqa: S102 - it is ours
    return scope["read_block"]


def unpacked(codes: np.ndarray, size: int) -> np.ndarray:
    """Return the codes of rows, as the page describes them."""
    bits, columns = codes.shape
    numbers = sum(row.astype(np.uint64) << np.uint64(8 * place) for place, row in enumerate(codes))
    parts = [(numbers >> np.uint64(bits * part)) & np.uint64(2**bits - 1) for part in range(8)]
    assert len(parts[0]) == columns
    return np.concatenate(parts)[:size].astype(np.float32)


def test_the_documented_lines_read_every_storage_of_an_old_bank(old: tuple[Path, list[dict]]) -> None:
    path, _ = old
    read_block = documented_reader()
    with MemoryBank.open(path, read_only=True) as bank:
        chunks = bank.chunks()
        blocks = bank.blocks(chunks)
    for chunk, block in zip(chunks, blocks, strict=True):
        arrays = read_block(path, chunk.doc_id, chunk.index)
        assert arrays["positions"].tolist() == block.positions.tolist()
        for name, tensor in (("keys", block.keys), ("values", block.values)):
            codes = arrays[name]
            if f"{name}.zero" in arrays:
                scale = (arrays[f"{name}.scale"].astype("uint16") << 7).view("float16").astype(np.float32)
                codes = (unpacked(codes, tensor.numel()).reshape(tensor.shape) + arrays[f"{name}.zero"]) * scale
            elif f"{name}.scale" in arrays:
                if codes.ndim == 1:
                    codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(-1)[: tensor.numel()]
                scale, offset = (arrays[f"{name}.{part}"].astype(np.float32) for part in ("scale", "offset"))
                codes = codes.reshape(tensor.shape) * scale + offset
            np.testing.assert_allclose(torch.from_numpy(codes.copy()).to(tensor.dtype).double(), tensor.double())


def test_an_old_bank_can_be_compacted_and_written_to(old: tuple[Path, list[dict]]) -> None:
    path, expected = old
    with MemoryBank.open(path, fingerprint=FINGERPRINT) as bank:
        before = [summary(block) for block in bank.blocks(bank.chunks())]
        bank.compact()
        assert [summary(block) for block in bank.blocks(bank.chunks())] == before
        assert bank.verify() == len(expected)
        bank.delete("hb/1#ü")
        assert bank.compact() > 0
