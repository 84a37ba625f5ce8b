"""What a bank of 10^9 to 10^12 tokens takes: bytes, seconds and money. docs/scale.md says how each formula was checked.

    python benchmarks/scale_plan.py
    python benchmarks/scale_plan.py --storage k4v4 --layers 14 --rate 2e14 --hour 2.5 --question-tokens 2050

Every figure follows from the shape of a backbone and a few measured constants. Prices are assumptions: give your own.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

PRICES_OF = "2026-11-29"
"""Day of the prices below: round numbers of the size that was asked for then, nobody's offer."""
INGEST_SHARE = 0.5
"""Of the rate at which matrices multiply: 0.48 and 0.53 on two CPUs (docs/scale.md)."""
INGEST_CEILING = 757.0
"""Tokens a second of one process on an H100, which waited for its host (benchmarks/results/2026-11-27-h100)."""
QUESTION_FLOOR = 8.5
"""Seconds of a question on the same machine."""
QUESTION_TOKENS = 14_000
"""Tokens through all layers that judging 32 candidates two or three times and answering come to (docs/scale.md)."""
CANDIDATES = 32
CHUNK_BYTES = 655 + 268
"""Catalogue and postings of a chunk at a million chunks (benchmarks/results/2026-11-29-growth)."""
LOOKUP_SECONDS, LOOKUP_SECONDS_PER_CHUNK = 0.037, 6.3e-8
"""CPU seconds of finding candidates by words: at 10,000 chunks, and for each further one (same place)."""


@dataclass(frozen=True)
class Shape:
    """What matters of a backbone: layers, KV heads, numbers a head, and weights of the layers."""

    layers: int
    heads: int
    dim: int
    weights: float


SHAPES = {
    "smollm2-135m": Shape(30, 3, 64, 106.2e6),
    "qwen2.5-0.5b": Shape(24, 2, 64, 357.9e6),
    "qwen2.5-7b": Shape(28, 4, 128, 6.525e9),
}


@dataclass(frozen=True)
class Tier:
    """A place for blocks: dollars a GB and month, bytes a second, seconds until the first byte."""

    name: str
    price: float
    speed: float
    latency: float


TIERS = (
    Tier("memory", 3.0, 10e9, 0.0),
    Tier("local disk", 0.10, 2e9, 1e-4),
    Tier("object store", 0.023, 0.5e9, 0.05),
)


def block_bytes(shape: Shape, tokens: float, ratio: int, storage: str, layers: int | None = None) -> float:
    """Return bytes of a chunk's block of all or so many layers, as `bank/quantize.py` lays it out.

    A row is a memory token in one layer and head: codes of its key and value, scale and offset of the value, position.
    Keys share scale and offset over a block, or over 64 rows of it with 4 bits.
    """
    heads = (layers or shape.layers) * shape.heads
    rows = heads * math.ceil(tokens / ratio)
    if storage == "int8":
        return rows * (2 * shape.dim + 4 + 2) + heads * (4 * shape.dim + 2)
    if storage == "k4v4":
        groups = math.ceil(tokens / ratio / 64)
        return rows * (shape.dim + 2 * math.ceil(shape.dim / 64) + 2) + heads * (2 * shape.dim * groups + 2)
    raise ValueError(f"Expected int8 or k4v4, got {storage!r}.")


def ingest_speed(shape: Shape, rate: float, layers: int | None = None, ceiling: float = INGEST_CEILING) -> float:
    """Return tokens a second of a process at a rate of operations a second; two operations a weight and token."""
    share = (layers or shape.layers) / shape.layers
    return min(INGEST_SHARE * rate / (2 * shape.weights * share), ceiling)


def question_seconds(
    shape: Shape, rate: float, question_tokens: float = QUESTION_TOKENS, floor: float = QUESTION_FLOOR
) -> float:
    """Return the model's seconds of a question; they do not grow with the bank."""
    return max(2 * shape.weights * question_tokens / rate, floor)


def lookup_seconds(chunks: float, shards: int = 1) -> float:
    """Return CPU seconds of finding candidates by words where shards look at once; they do grow with the bank."""
    return LOOKUP_SECONDS + LOOKUP_SECONDS_PER_CHUNK * chunks / shards


def fetch_seconds(tier: Tier, block: float, count: int = CANDIDATES) -> float:
    """Return seconds until so many blocks are there, asked for at once."""
    return tier.latency + count * block / tier.speed


def recompute_seconds(tokens: float, speed: float) -> float:
    """Return seconds of compressing so many tokens when a question comes near them, instead of storing blocks."""
    return tokens / speed


def break_even(tokens: float, speed: float, hour: float, block: float, tier: Tier) -> float:
    """Return how often a month a chunk must be judged for its stored block to cost less than compressing it anew."""
    return tier.price * block / 1e9 / (recompute_seconds(tokens, speed) * hour / 3600)


def main() -> None:
    """Print a table by size, one of the tiers, and the break-even."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--storage", choices=("int8", "k4v4"), default="int8")
    parser.add_argument("--layers", type=int, help="that blocks hold; all if left out")
    parser.add_argument("--chunk", type=int, default=256, help="tokens")
    parser.add_argument("--ratio", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e14, help="operations a second that a machine reaches")
    parser.add_argument("--hour", type=float, default=2.5, help=f"dollars an hour of it, {PRICES_OF}")
    parser.add_argument("--question-tokens", type=float, default=QUESTION_TOKENS)
    parser.add_argument("--ceiling", type=float, default=INGEST_CEILING, help="tokens a second of a process at most")
    parser.add_argument("--floor", type=float, default=QUESTION_FLOOR, help="seconds of a question at least")
    parser.add_argument("--shard-chunks", type=float, default=1e6, help="of one shard")
    options = parser.parse_args()
    shape = SHAPES[options.backbone]
    block = block_bytes(shape, options.chunk, options.ratio, options.storage, options.layers)
    a_token = (block + CHUNK_BYTES) / options.chunk
    speed = ingest_speed(shape, options.rate, options.layers, options.ceiling)
    asked = question_seconds(shape, options.rate, options.question_tokens, options.floor)
    print(f"{a_token:.0f} bytes a token, {speed:.3g} tokens a second, {asked:.3g} s of model a question")
    print("\n| tokens | TB | days of one process | $ to ingest | shards | s to find, one bank | s to find, sharded |")
    print("|---|---|---|---|---|---|---|")
    for power in range(9, 13):
        tokens = 10.0**power
        chunks, seconds = tokens / options.chunk, tokens / speed
        shards = math.ceil(chunks / options.shard_chunks)
        cells = [tokens * a_token / 1e12, seconds / 86400, seconds / 3600 * options.hour, shards]
        cells += [lookup_seconds(chunks), lookup_seconds(chunks, shards)]
        print(
            f"| 10^{power} | " + " | ".join(f"{cell:,.3g}" if cell < 1000 else f"{cell:,.0f}" for cell in cells) + " |"
        )
    print("\n| tier | $ a month, 10^9 tokens | s to fetch 32 blocks | judged a month from which storing is cheaper |")
    print("|---|---|---|---|")
    for tier in TIERS:
        often = break_even(options.chunk, speed, options.hour, block, tier)
        month = tier.price * a_token
        print(f"| {tier.name} | {month:,.0f} | {fetch_seconds(tier, block):.3f} | {often:.3g} |")


if __name__ == "__main__":
    main()
