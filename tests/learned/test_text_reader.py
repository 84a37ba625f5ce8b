"""The script that trains the text reader: a question among others is asked as alone, and a run goes on from weights."""

from __future__ import annotations

import gzip
import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.config import ReasonerConfig
from memrecall_kv.errors import InputError
from memrecall_kv.recall import prompts
from memrecall_kv.recall.reasoner import Tally, TunedReasoner
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.train.data import Example, Paragraph
from memrecall_kv.train.settings import load_settings
from memrecall_kv.types import Chunk, Recall, WorkingMemory

SCRIPTS = Path(__file__).parents[2] / "scripts"
READER = runpy.run_path(str(SCRIPTS / "train_text_reader.py"))
Item, Sheet, read_loss = READER["Item"], READER["Sheet"], READER["read_loss"]
TARGETS = ("q_proj", "down_proj")
SQUAD = "squad_v1.1"


def adapter(backbone: Backbone) -> LoraAdapter:
    made = LoraAdapter.create(backbone.model, TARGETS, rank=2, alpha=4, seed=3)
    return LoraAdapter({name: (a, torch.ones_like(b) * 0.02) for name, (a, b) in made.deltas.items()}, alpha=4)


def test_a_question_among_others_has_the_loss_and_gradient_of_one_alone() -> None:
    backbone, draw = tiny_backbone(), random.Random(0)

    def ids(size: int) -> list[int]:
        return [draw.randrange(256) for _ in range(size)]

    texts, items = ids(40), [Item(ids(size), ids(1 + size % 4)) for size in (5, 17, 3, 11)]
    found = []
    for sheets in ([Sheet(texts, items)], [Sheet(texts, [item]) for item in items]):
        reader = adapter(backbone)
        leaves = [t.requires_grad_() for pair in reader.deltas.values() for t in pair]
        total = torch.stack([read_loss(backbone, reader, sheet) for sheet in sheets]).sum()
        total.backward()
        found.append((float(total.detach()), [leaf.grad for leaf in leaves]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_sheet_is_read_as_a_pipeline_reads_it() -> None:
    """The reasoner's prompt is the sheet's: sink, texts, question."""
    backbone = tiny_backbone()
    sampler = READER["Sampler"](backbone, [], 0, 0)
    sheet = sampler.sheet(["One text.", "Another."], [sampler.item("Who?", "Anna")])
    config = ReasonerConfig(kind="tuned", reading="together")
    reasoner = TunedReasoner(backbone, config, adapter(backbone))
    evidence = [
        Recall(Chunk("d", place, 0, len(text), text, len(text)), gate_probability=0.9, step=place)
        for place, text in enumerate(("Another.", "One text."))
    ]
    _, read = reasoner._texts("Who?", WorkingMemory(()), evidence, Tally())
    assert read == [*sheet.texts, *sheet.items[0].prompt]


def data(folder: Path) -> Path:
    """Write a small file wherever the script reads one."""
    paths = [file.path for file in load_settings("reasoner").data.questions]
    paths += ["qa/hotpotqa_train_gold_only.jsonl", "qa/strategyqa_train.jsonl", "stories/babi_en10k_train.jsonl"]
    for path in paths:
        name = path.split("/")[1].split("_train")[0].replace("squad", "squad_v1.1")
        rows = []
        for number in range(60):
            facts = [f"Person {number} lives in city {number}.", "Nobody lives in the lake."]
            paragraphs = [{"title": "", "text": text, "supporting": not place} for place, text in enumerate(facts)]
            asked = {"question": f"Where does person {number} live?", "answers": [f"city {number}"]}
            row = {"id": f"{name}{number}", "dataset": name, **asked, "paragraphs": paragraphs}
            if name == "babi_en10k":
                row = {"id": f"b{number}", "lines": facts, "qas": [{"q": asked["question"], "a": "city", "upto": 2}]}
            rows.append(row)
        file = folder / f"{path.removesuffix('.gz')}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return folder


def test_chunks_of_an_article_hold_the_answers_to_what_is_asked_of_them() -> None:
    backbone = tiny_backbone()

    def asked(number: int, article: str) -> Example:
        text = f"{article}: Paragraph {number} of {article} names hero {article}{number}, and so on, and so on."
        paragraphs = (Paragraph(text, supporting=True),)
        return Example(
            f"{article}{number}", article, f"Who is {article}{number}?", (f"hero {article}{number}",), paragraphs, SQUAD
        )

    sampler = READER["Sampler"](backbone, [asked(n, article) for article in "AB" for n in range(9)], 0, 0)
    kinds = set()
    for step in range(60):
        sheet = sampler._chunks(SQUAD, random.Random(step))
        read = backbone.decode(sheet.texts)
        for item in sheet.items:
            reply = backbone.decode(item.target).strip()
            who = backbone.decode(item.prompt).split("Who is ")[1][:2]
            is_there = f"names hero {who}" in read
            kinds.add((is_there, len(sheet.items) > 1))
            assert reply == (f"hero {who}" if is_there else prompts.NOT_FOUND)
        articles = [article for article in "AB" if f"of {article} names" in read]
        kinds.add(len(articles))
        assert all(read.count(f"{article}: ") <= 2 for article in articles), "a title stands over a document once"
    assert kinds >= {(True, True), (False, True), 1, 2}


def test_rows_of_a_data_set_without_a_share_are_an_error() -> None:
    example = Example("1", "A", "Who?", ("Anna",), (Paragraph("Anna.", supporting=True),), "squad")
    with pytest.raises(InputError, match="squad have no share"):
        READER["Sampler"](tiny_backbone(), [example], 0, 0)


def test_the_prepared_run_ends_in_small_files_and_goes_on_from_them(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    adapter(backbone).save(tmp_path / "start", base_model="tiny")
    tiny = {"DEVICE": "cpu", "DTYPE": "float32", "STEP_TOKENS": 400, "BLOCK_TOKENS": 100, "VALIDATION_ROWS": 2}
    tiny |= {"DATA": data(tmp_path / "data"), "MODEL": tmp_path / "model", "PYTHON": sys.executable}

    def run(**more: object) -> list[dict]:
        environment = {**os.environ, **{name: str(value) for name, value in {**tiny, **more}.items()}}
        subprocess.run([SCRIPTS / "device_train.sh"], env=environment, check=True, timeout=600)
        assert all(path.stat().st_size <= 16_000_000 for path in Path(str(more["OUT"])).iterdir())
        lines = (Path(str(more["OUT"])) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    records = run(START=tmp_path / "start", OUT=tmp_path / "first", STEPS=2)
    assert [record["step"] for record in records] == [0, 1, 2]
    assert {"loss", "seconds", "tokens"} <= records[-1].keys()
    again = run(RESUME=tmp_path / "first", OUT=tmp_path / "second", STEPS=3)
    assert [record["step"] for record in again] == [3]
    held_out = "held_out_loss_read"
    # it went on from weights that had been trained
    assert records[0][held_out] != records[-1][held_out]
    over = run(RESUME=tmp_path / "second", OUT=tmp_path / "third", STEPS=9, SECONDS_OF_TRAINING=-1)
    assert over == []
    parts = [
        b"".join(p.read_bytes() for p in sorted((tmp_path / n).glob("reader.part-*"))) for n in ("second", "third")
    ]
    assert parts[0] == parts[1]
    assert (tmp_path / "third" / "step").read_text(encoding="utf-8").strip() == "3"
