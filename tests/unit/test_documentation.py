"""Code that stands in the documentation runs and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig
from memrecall_kv.types import Chunk, Document, MemoryBlock

ROOT = Path(__file__).parents[2]


def snippet(page: str) -> str:
    found = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found.group(1)


@pytest.mark.real
def test_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(snippet("README.md"), "README.md", "exec"), {})  # noqa: S102 - it is ours
    printed = capsys.readouterr().out
    assert "Smiljan" in printed.splitlines()[0]
    assert printed.splitlines()[1].startswith("tesla")


def test_a_stranger_reads_a_bank_with_the_documented_lines(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(2, 2, 4, 8, generator=generator) for _ in range(2))
    block = MemoryBlock(keys, values, torch.arange(4, dtype=torch.int32)[None, None], 16, 16)
    chunk = Chunk("d", 0, 0, 4, "text", 16)
    with MemoryBank.open(tmp_path / "b", fingerprint={"x": "1"}, config=BankConfig(storage="int8")) as bank:
        bank.put_blocks([(chunk, block)])
        bank.put_document(Document("d", "text"), [chunk])
        (ours,) = bank.blocks([chunk])
    scope: dict = {}
    exec(compile(snippet("docs/bank-format.md"), "bank-format.md", "exec"), scope)  # noqa: S102 - it is ours
    theirs = scope["read_block"](tmp_path / "b", "d", 0)
    for name, expected in (("keys", ours.keys), ("values", ours.values)):
        codes, scale, offset = (theirs[f"{name}{part}"].astype(np.float32) for part in ("", ".scale", ".offset"))
        np.testing.assert_allclose(codes * scale + offset, expected.numpy(), atol=1e-6)
