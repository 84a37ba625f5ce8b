"""Write a small bank and what it should read as: `python tests/regression/make_bank.py tests/regression/bank-v2`.

Run once per format version, with the release that introduces it; its output is committed and never written again.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import torch
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig
from memrecall_kv.types import Chunk, Document, MemoryBlock

FINGERPRINT = {"backbone": "tiny", "compression_ratio": "4"}
TEXT = "Tesla was born in Smiljan. 日本語もあります。"
STORED = [
    ("native", torch.float32),
    ("native", torch.bfloat16),
    ("int8", torch.bfloat16),
    ("int4", torch.float16),
    ("k4v4", torch.float32),
    ("k4v3", torch.bfloat16),
]


def make_block(seed: int, dtype: torch.dtype) -> MemoryBlock:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(2, 2, 5, 6, generator=generator).to(dtype) for _ in range(2))
    positions = torch.randint(0, 17, (2, 2, 5), generator=generator, dtype=torch.int32).sort().values
    return MemoryBlock(keys, values, positions, 17, 17)


def summary(block: MemoryBlock) -> dict[str, object]:
    """Return numbers that change when any number of the block does."""
    keys, values = block.keys.double(), block.values.double()
    return {
        "dtype": str(block.keys.dtype),
        "shape": list(block.keys.shape),
        "first_keys": keys[0, 0, 0].tolist(),
        "last_values": values[-1, -1, -1].tolist(),
        "squares": [float(keys.square().sum()), float(values.square().sum())],
        "positions": block.positions.tolist(),
        "extent": block.extent,
        "num_source_tokens": block.num_source_tokens,
    }


def main(folder: Path) -> None:
    size = -(-len(TEXT) // len(STORED))
    spans = [(start, min(start + size, len(TEXT))) for start in range(0, len(TEXT), size)]
    chunks = [Chunk("hb/1#ü", i, start, end, TEXT[start:end], 17) for i, (start, end) in enumerate(spans)]
    for number, (storage, dtype) in enumerate(STORED):
        with MemoryBank.open(folder, fingerprint=FINGERPRINT, config=BankConfig(storage=storage)) as bank:
            bank.put_blocks([(chunks[number], make_block(number, dtype))])
    with MemoryBank.open(folder, fingerprint=FINGERPRINT) as bank:
        bank.put_document(Document("hb/1#ü", TEXT, {"page": 1, "tags": ["a", None]}), chunks)
        expected = [summary(block) for block in bank.blocks(chunks)]
    database = sqlite3.connect(folder / "catalogue.sqlite")
    # small pages keep the committed file small; a bank's own are of 4096 bytes
    database.executescript("PRAGMA journal_mode=DELETE; PRAGMA page_size=512; VACUUM; PRAGMA journal_mode=WAL;")
    database.close()
    for name in ("writer.lock", "catalogue.sqlite-reserve"):
        (folder / name).unlink()
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
