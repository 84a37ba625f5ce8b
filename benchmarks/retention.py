"""How much of its answers a trained reader keeps when it reads blocks instead of text, readback off.

    python benchmarks/retention.py --checkpoint CHECKPOINT --data squad_xquad_dev --rows 200 --out RESULT.json
    python benchmarks/retention.py --checkpoint CHECKPOINT --data hotpotqa_dev --batch 4 --out RESULT.json

The same reader reads the chunks in full and every kind of block, stored as a bank stores them (int8); retention is the
ratio of the two mean F1, its interval a paired bootstrap over questions. Answers: greedy, at most 16 tokens. On
HotpotQA all ten paragraphs are given, gold and others.
"""

from __future__ import annotations

import argparse
import random
import time

import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.decoding import replies
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.backbone.loading import load_backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.bank.quantize import dequantize, quantize
from memrecall_kv.compress.importance import SCORES
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.compress.operators import operate
from memrecall_kv.config import CompressorConfig
from memrecall_kv.evaluate.measures.metrics import exact_match, f1_score
from memrecall_kv.recall import prompts
from memrecall_kv.types import MemoryBlock
from rows import parser, sampled_rows, save, table, texts_of

KINDS = {
    "KVzip, adaptive": {"importance": "reconstruction", "budget": "adaptive"},
    "learned, adaptive": {"importance": "learned", "budget": "adaptive"},
    "KVzip, uniform": {"importance": "reconstruction"},
    "KeyDiff, adaptive": {"importance": "key_diff", "budget": "adaptive"},
    "KeyDiff, uniform": {"importance": "key_diff"},
}
NEW_TOKENS = 16


def read_from(
    backbone: Backbone, texts: list[str], options: argparse.Namespace, scorer: ImportanceScorer | None
) -> dict[str, list[MemoryBlock]]:
    """Return what is read of some texts: nothing, all, and blocks of every kind and ratio."""
    rows = [backbone.encode(text) for text in texts]
    with torch.inference_mode():
        prefill = backbone.kv.prefill(rows)
        found = {"no context": [], "full text": whole_blocks(prefill, rows)}
        scorers = SCORES | ({"learned": scorer} if scorer else {})
        names = {str(KINDS[kind]["importance"]) for kind in options.kinds}
        scores = {name: scorers[name](backbone, prefill, rows) for name in names}
        for kind in options.kinds:
            for ratio in options.ratios:
                config = CompressorConfig(compression_ratio=ratio, **KINDS[kind])
                made = operate(backbone, prefill, rows, config, scores[config.importance])
                found[f"{kind} x{ratio}"] = [dequantize(quantize(block, options.storage)) for block in made]
    return found


def answers(
    backbone: Backbone, reader: LoraAdapter, blocks: list[list[MemoryBlock]], questions: list[str]
) -> list[str]:
    """Answer questions greedily, each after its own blocks."""
    asked = [backbone.encode(prompts.trained_answer(question)) for question in questions]
    with torch.inference_mode():
        state = backbone.kv.place(blocks)
    written = replies(backbone, state, asked, NEW_TOKENS, lambda: reader.active(backbone.model))
    return [backbone.decode(ids).partition("\n")[0].strip() for ids in written]


def retention(part: list[float], whole: list[float], seed: int = 0, resamples: int = 2000) -> list[float]:
    """Return the ratio of two means over the same questions and its 95 % interval."""
    draw = random.Random(seed)  # noqa: S311  # resampling, not secrecy
    size = len(whole)
    ratios = []
    for _ in range(resamples):
        picked = draw.choices(range(size), k=size)
        ratios.append(sum(part[i] for i in picked) / max(1e-9, sum(whole[i] for i in picked)))
    ratios.sort()
    return [sum(part) / sum(whole), ratios[int(0.025 * resamples)], ratios[int(0.975 * resamples) - 1]]


def main() -> None:
    """Measure, print the tables, and write every row's score."""
    arguments = parser(__doc__, data="squad_xquad_dev", rows=200)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--ratios", type=int, nargs="+", default=[2, 4, 8])
    arguments.add_argument("--kinds", nargs="+", default=["KVzip, adaptive", "KeyDiff, uniform"], choices=KINDS)
    arguments.add_argument("--storage", default="int8")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    backbone = load_backbone()
    reader = LoraAdapter.from_directory(options.checkpoint / "reasoner").to(backbone.device, backbone.dtype)
    learned = any("learned" in kind for kind in options.kinds)
    scorer = ImportanceScorer.from_directory(options.checkpoint / "compressor") if learned else None
    rows = sampled_rows(options)
    scores: dict[str, dict[str, list[float]]] = {}
    started = time.perf_counter()
    for start in range(0, len(rows), options.batch):
        batch = rows[start : start + options.batch]
        made = [read_from(backbone, texts_of(row), options, scorer) for row in batch]
        for name in made[0]:
            replies = answers(backbone, reader, [one[name] for one in made], [row["question"] for row in batch])
            for row, reply in zip(batch, replies, strict=True):
                found = scores.setdefault(name, {"F1": [], "EM": []})
                found["F1"].append(f1_score(reply, row["answers"]))
                found["EM"].append(exact_match(reply, row["answers"]))
        print(f"{start + len(batch)}/{len(rows)}, {time.perf_counter() - started:.0f} s", flush=True)
    print(f"\n{options.data}, {len(rows)} rows\n")
    print(table({f"{name}, {measure}": found[measure] for name, found in scores.items() for measure in ("F1", "EM")}))
    print("\n| | share of the full text's F1 |\n|---|---|")
    for name, found in scores.items():
        mean, low, high = retention(found["F1"], scores["full text"]["F1"])
        print(f"| {name} | {100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}] |")
    save(options, ids=[row["id"] for row in rows], scores=scores)


if __name__ == "__main__":
    main()
