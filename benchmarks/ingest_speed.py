"""Ingest speed as a share of the bare backbone's prefill, both in one run on the same chunks.

    python benchmarks/ingest_speed.py --chunks 64 --rounds 5

Bare: the backbone's forward over the same token batches with a cache, without logits. Ingest: chunking,
compressing, quantising and the durable write into a bank. The two alternate; the median ratio is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from memrecall_kv.cli.demo import book
from memrecall_kv.compress.compressor import batches
from memrecall_kv.config import CompressorConfig, MemRecallConfig
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.types import Document


def bare_prefill(memory: MemRecall, rows: list[list[int]]) -> float:
    """Return the seconds of the backbone's forward over the rows, batched as the compressor batches them."""
    backbone = memory.backbone
    started = time.perf_counter()
    for batch in batches(rows):
        width = max(len(rows[index]) for index in batch)
        ids = torch.tensor([rows[index] + [0] * (width - len(rows[index])) for index in batch])
        with torch.inference_mode():
            backbone.model.base_model(input_ids=ids, use_cache=True)
    return time.perf_counter() - started


def main() -> None:
    """Print tokens a second of both, and the ratio of each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path, help="the packaged default if left out")
    parser.add_argument("--importance", help="a score that needs no training, instead of the checkpoint's compressor")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = None
    if options.importance:
        config = MemRecallConfig(compressor=CompressorConfig(importance=options.importance, budget="adaptive"))
    memory = MemRecall.from_pretrained(None if config else options.checkpoint, config=config)
    whole = memory.chunk(book())[: options.chunks]
    document = Document("book", book().text[: whole[-1].end])
    rows = [memory.backbone.encode(chunk.text) for chunk in whole]
    tokens = sum(len(row) for row in rows)
    ratios = []
    for number in range(-1, options.rounds):  # the first round is a warm-up of both and does not count
        bare = bare_prefill(memory, rows)
        with tempfile.TemporaryDirectory() as folder, memory.open_bank(Path(folder) / "b") as bank:
            started = time.perf_counter()
            memory.ingest(bank, [document])
            ingest = time.perf_counter() - started
        print(f"{number}: bare {tokens / bare:.0f} tokens/s, ingest {tokens / ingest:.0f}, ratio {bare / ingest:.3f}")
        ratios += [bare / ingest] if number >= 0 else []
    spread = f"min {min(ratios):.3f}, median {statistics.median(ratios):.3f}, max {max(ratios):.3f}"
    print(f"{tokens} tokens in {len(rows)} chunks, {memory.backbone.dtype}, {options.threads} threads; ratio {spread}")


if __name__ == "__main__":
    main()
