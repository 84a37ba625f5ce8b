"""Each formula of the scale plan beside what was measured; docs/scale.md cites the same points."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from memrecall_kv.backbone.loading import load_outline
from memrecall_kv.bank.quantize import quantize
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# dataclasses look their module up
sys.modules.setdefault("scale_plan", type(sys)("scale_plan"))
PLAN = runpy.run_path(str(ROOT / "benchmarks" / "scale_plan.py"), run_name="scale_plan")
SMOLLM, QWEN = PLAN["SHAPES"]["smollm2-135m"], PLAN["SHAPES"]["qwen2.5-7b"]


def prepared(run: str, documents: int) -> list[dict]:
    lines = (RESULTS / run / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    kind = ("prepare", "memrecall", documents)
    return [row for row in rows if (row["kind"], row["system"], row["documents"]) == kind and not row["reused"]]


@pytest.mark.parametrize("storage", ["int8", "k4v4"])
@pytest.mark.parametrize("length", [64, 100, 300])
def test_the_bytes_of_a_block_are_those_that_are_stored(storage: str, length: int) -> None:
    backbone = tiny_backbone(head_dim=64)
    compressor = OperatorCompressor(backbone, CompressorConfig(budget="adaptive", compression_ratio=4))
    text = "abcdefghij" * 30
    (block,) = compressor.compress([Chunk("d", 0, 0, length, text[:length], length)])
    stored = sum(tensor.nbytes for tensor in quantize(block, storage).tensors.values())
    shape = PLAN["Shape"](2, 2, 64, 1.0)
    assert PLAN["block_bytes"](shape, length, 4, storage) == pytest.approx(stored, rel=0.02)
    half = PLAN["block_bytes"](shape, length, 4, storage, layers=1)
    assert half == pytest.approx(stored / 2, rel=0.02)


@pytest.mark.parametrize(("run", "documents"), [("2026-11-27-cost-112k", 800), ("2026-11-27-h100", 200)])
def test_bytes_of_a_token_are_those_of_measured_banks(run: str, documents: int) -> None:
    rows = prepared(run, documents)
    tokens, stored = (sum(row[name] for row in rows) for name in ("source_tokens", "bytes_on_disk"))
    length = tokens / documents / len(rows)
    predicted = (PLAN["block_bytes"](SMOLLM, length, 4, "int8") + PLAN["CHUNK_BYTES"]) / length
    assert predicted == pytest.approx(stored / tokens, rel=0.05)


def test_smaller_forms_take_the_share_that_was_measured() -> None:
    figures = json.loads((RESULTS / "2026-11-29-bytes" / "hotpotqa.json").read_text(encoding="utf-8"))["figures"]
    measured = figures["k4v4"]["bytes a source token"] / figures["int8"]["bytes a source token"]
    small, large = (PLAN["block_bytes"](SMOLLM, 130, 4, storage) for storage in ("k4v4", "int8"))
    assert small / large == pytest.approx(measured, rel=0.02)
    # docs/decisions/0015: 1,519 bytes of 3,248 with layers 6 to 20
    window = PLAN["block_bytes"](SMOLLM, 130, 4, "int8", layers=14)
    assert window / large == pytest.approx(1519 / 3248, rel=0.02)
    # the paper's backbone at ratio 4: 14,336 bytes of two-byte numbers, method.md 2.6
    codes = 2 * QWEN.layers * QWEN.heads * QWEN.dim / 4
    assert 2 * codes == 14_336
    assert PLAN["block_bytes"](QWEN, 4096, 4, "int8") / 4096 == pytest.approx(codes, rel=0.03)


@pytest.mark.parametrize(
    ("rate", "tokens_a_second", "seconds"),
    [(375e9, 854, 8.9), (67.5e9, 167.5, 34.0), (195e9, None, 15.4)],
)
def test_seconds_are_those_of_measured_machines(rate: float, tokens_a_second: float | None, seconds: float) -> None:
    if tokens_a_second:
        assert PLAN["ingest_speed"](SMOLLM, rate) == pytest.approx(tokens_a_second, rel=0.15)
    assert PLAN["question_seconds"](SMOLLM, rate, floor=0.0) == pytest.approx(seconds, rel=0.35)


def test_a_gpu_was_no_faster_than_its_host_let_it_be() -> None:
    rows = prepared("2026-11-27-h100", 200)
    measured = sum(row["source_tokens"] for row in rows) / sum(row["seconds"] for row in rows)
    assert PLAN["ingest_speed"](SMOLLM, 1e14) == pytest.approx(measured, rel=0.1)
    lines = (RESULTS / "2026-11-27-h100" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    seconds = [row["seconds"] for row in asked if row["kind"] == "answer" and row["system"] == "memrecall"]
    assert PLAN["question_seconds"](SMOLLM, 1e14) == pytest.approx(sum(seconds) / len(seconds), rel=0.05)


def test_finding_candidates_grows_with_the_bank_as_measured() -> None:
    chunks = json.loads((RESULTS / "2026-11-29-growth" / "growth.json").read_text(encoding="utf-8"))["chunks"]
    for count, found in chunks.items():
        measured = sum(found[f"question {n}"]["cpu_ms"] for n in range(3)) / 3000
        assert PLAN["lookup_seconds"](int(count)) == pytest.approx(measured, rel=0.2)
    assert PLAN["lookup_seconds"](8e6, shards=8) == PLAN["lookup_seconds"](1e6)


def test_what_deferring_costs_lies_between_one_look_and_three() -> None:
    # docs/log.md, 2026-11-28: 35 s more a question at 170 tokens a second, 134 tokens a chunk; 2.8 hours for the bank
    least, most = (PLAN["recompute_seconds"](looks * PLAN["CANDIDATES"] * 134, 170.0) for looks in (1, 3))
    assert least < 35 < most
    assert PLAN["recompute_seconds"](1_706_935, 170.0) == pytest.approx(2.8 * 3600, rel=0.02)


def test_a_dearer_tier_must_be_read_more_often_to_be_worth_it() -> None:
    block = PLAN["block_bytes"](SMOLLM, 256, 4, "int8")
    often = [PLAN["break_even"](256, 757.0, 2.5, block, tier) for tier in PLAN["TIERS"]]
    assert often == sorted(often, reverse=True)
    # at the break-even both cost the same
    tier = PLAN["TIERS"][1]
    assert often[1] * (256 / 757 / 3600 * 2.5) == pytest.approx(tier.price * block / 1e9)
    assert PLAN["fetch_seconds"](tier, block) == pytest.approx(tier.latency + 32 * block / tier.speed)


@pytest.mark.real
def test_the_default_has_the_shape_it_is_planned_with() -> None:
    outline = load_outline()
    assert outline.block_numbers == 2 * SMOLLM.layers * SMOLLM.heads * SMOLLM.dim
    assert outline.layer_parameters == pytest.approx(SMOLLM.weights, rel=0.001)


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["scale_plan.py", "--storage", "k4v4", "--layers", "14"])
    PLAN["main"]()
    out = capsys.readouterr().out
    assert out.count("| 10^") == 4
    assert "object store" in out
