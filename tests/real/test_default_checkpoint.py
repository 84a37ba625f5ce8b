"""The trained pipeline that comes with the package: what it must do, and that its memory is what does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memrecall_kv.backbone.loading import load_backbone
from memrecall_kv.bank import MemoryBank
from memrecall_kv.cli.demo import book
from memrecall_kv.compress.importance import SCORES
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import MemRecallConfig, ReasonerConfig, default_directory
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall import prompts
from memrecall_kv.recall.gate import ClassifierGate, seeing_of
from memrecall_kv.recall.reasoner import Tally, TunedReasoner
from memrecall_kv.train.scoring import agreement
from memrecall_kv.types import Chunk, Document, MemoryBlock, Note, Recall, WorkingMemory
from safetensors.torch import load_file

pytestmark = pytest.mark.real

PARAGRAPHS = {
    "tesla": "Nikola Tesla was born in the village of Smiljan in 1856. His father Milutin was an Orthodox priest.",
    "warsaw": "The Saxon Garden in Warsaw covers the area of 15.5 hectares and was formally a royal garden.",
    "film": "The Silver Lantern is a 1937 film directed by Edgar Marlow and set in a lighthouse.",
    "marlow": "Edgar Marlow (3 May 1891 - 1960) was a director. He was born in the port of Whitby.",
    "band": "Edgar's Lantern is a rock band from Leeds that was formed in 1994.",
    "bananas": "Bananas grow in the tropics and are picked while they are green. They ripen in warm rooms on the way.",
}
QUESTIONS = {
    "In which village was Nikola Tesla born?": ("tesla", "Smiljan"),
    "How many hectares does the Saxon Garden cover?": ("warsaw", "15.5"),
    "What colour are bananas when they are picked?": ("bananas", "green"),
}
BRIDGE = "Where was the director of The Silver Lantern born?"


@pytest.fixture(scope="module")
def memory() -> MemRecall:
    return MemRecall.from_pretrained()


@pytest.fixture(scope="module")
def bank(memory: MemRecall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryBank]:
    with memory.open_bank(tmp_path_factory.mktemp("default") / "b") as opened:
        memory.ingest(opened, [Document(name, text) for name, text in PARAGRAPHS.items()])
        yield opened


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_default_is_one_backbone_in_either_type(dtype: str) -> None:
    made_for = json.loads((default_directory() / "memrecall_config.json").read_text())["backbone"]["fingerprint"]
    assert MemRecall.from_pretrained(dtype=dtype).fingerprint["backbone"] == made_for


def blocks(memory: MemRecall, *, of_all_layers: bool = False) -> dict[str, MemoryBlock]:
    """Blocks as the gate reads them, or with the layers that a reader needs too."""
    compressor = memory.parts.compressor
    if of_all_layers:
        assert isinstance(compressor, OperatorCompressor)
        compressor = compressor.of_all_layers()
    chunks = [Chunk(name, 0, 0, len(text), text, 1) for name, text in PARAGRAPHS.items()]
    return dict(zip(PARAGRAPHS, compressor.compress(chunks), strict=True))


def zeroed(block: MemoryBlock) -> MemoryBlock:
    return replace(block, keys=torch.zeros_like(block.keys), values=torch.zeros_like(block.values))


def test_it_is_small_and_in_the_layout_of_peft() -> None:
    folder = default_directory()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 40e6
    for part in ("reasoner", "gate"):
        names = load_file(folder / part / "adapter_model.safetensors").keys()
        assert all(name.startswith("base_model.model.model.layers.") for name in names)
        assert {name.rsplit(".", 2)[-2] for name in names} == {"lora_A", "lora_B"}


def test_it_loads_no_second_backbone_where_one_is_there(memory: MemRecall) -> None:
    assert MemRecall.from_pretrained().backbone is load_backbone() is memory.backbone
    assert isinstance(memory.parts.gate, ClassifierGate)
    assert isinstance(memory.parts.reasoner, TunedReasoner)


def test_it_answers_and_cites_and_says_when_it_cannot(memory: MemRecall, bank: MemoryBank) -> None:
    for question, (name, wanted) in QUESTIONS.items():
        answer = memory.ask(bank, question)
        assert wanted in answer.text
        assert answer.found
        assert answer.grounded
        assert answer.evidence[0].chunk.doc_id == name
    nothing = memory.ask(bank, "Who composed the opera Aida?")
    assert not nothing.found
    assert nothing.text == memory.config.reasoner.not_found


def test_the_second_hop_is_opened_by_what_the_first_one_said(memory: MemRecall, bank: MemoryBank) -> None:
    answer = memory.ask(bank, BRIDGE)
    assert {recall.chunk.doc_id for recall in answer.evidence} >= {"film", "marlow"}
    assert "Whitby" in answer.text
    made = blocks(memory)
    known = WorkingMemory((Note(PARAGRAPHS["film"], "film"),))
    gate = memory.parts.gate
    others = ["marlow", "band", "tesla"]
    with_note = gate.score(BRIDGE, known, [made[name] for name in others])
    without = gate.score(BRIDGE, WorkingMemory(), [made[name] for name in others])
    assert with_note[0] == max(with_note)
    assert with_note[0] > without[0]


def test_names_of_a_note_see_a_block_before_its_common_words(memory: MemRecall) -> None:
    note = "Fort Dobbs is a 1958 western directed by Gordon Douglas to star Clint Walker. Others were in 1959 and 1961."
    prompt = prompts.gate_classify("Where was the director of the film Fort Dobbs born?", note)
    spans, encoding = memory.backbone.token_spans(prompt), seeing_of(memory.backbone, prompt, 20)
    ends = {prompt[: spans[place][1]].split()[-1].strip(".?,") for place in encoding}
    assert {"Dobbs", "1958", "1959", "1961", "Gordon", "Douglas", "Clint", "Walker"} <= ends
    assert not {"is", "a", "by", "to"} & ends


def test_swapped_or_zeroed_blocks_lose_the_gate(memory: MemRecall) -> None:
    """By the block alone, without the words that its text shares with the question."""
    made, gate = blocks(memory), memory.parts.gate
    for question, (name, _) in QUESTIONS.items():
        other = "band" if name != "band" else "film"
        right, swapped, empty = gate.score(question, WorkingMemory(), [made[name], made[other], zeroed(made[name])])
        odds = [p / (1 - p) for p in (right, swapped, empty)]
        assert odds[0] > 3 * max(odds[1:])


def test_the_answer_is_in_the_block_that_is_read(memory: MemRecall) -> None:
    made = blocks(memory, of_all_layers=True)
    reasoner = memory.parts.reasoner
    assert isinstance(reasoner, TunedReasoner)
    config = ReasonerConfig(**{**memory.config.reasoner.model_dump(), "readback": "off"})
    reader = TunedReasoner(reasoner._backbone, config, reasoner.adapter)
    for question, (name, wanted) in QUESTIONS.items():
        recall = Recall(Chunk(name, 0, 0, 1, "x", 1), 0.9, 0)
        for block, expected in ((made[name], True), (made["band"], False), (zeroed(made[name]), False)):
            said = "".join(reader.answer(question, WorkingMemory(), [recall], [block], Tally()))
            assert (wanted in said) == expected


def test_the_learned_score_keeps_what_reading_twice_would_keep(memory: MemRecall) -> None:
    scorer, reasoner = memory.parts.compressor.scorer, memory.parts.reasoner
    backbone = reasoner._backbone
    rows = [memory.backbone.encode(chunk.text) for chunk in memory.chunk(book())[3:5]]  # of no training text
    with torch.inference_mode():
        prefill = backbone.kv.prefill(rows)
        wanted = SCORES["reconstruction"](backbone, prefill, rows).flatten()
        alike = {
            "learned": agreement(scorer(backbone, prefill, rows).flatten(), wanted, 4),
            "other weights": agreement(
                ImportanceScorer.create(prefill, width=64)(backbone, prefill, rows).flatten(), wanted, 4
            ),
            "key_diff": agreement(SCORES["key_diff"](backbone, prefill, rows).flatten(), wanted, 4),
        }
    assert alike["learned"] > 0.7, alike
    assert alike["learned"] > max(alike["other weights"], alike["key_diff"]) + 0.1, alike


def test_one_setting_can_be_changed_and_the_rest_kept(memory: MemRecall) -> None:
    settings = memory.config.model_dump()
    settings["scan"]["top_k"] = 1
    changed = MemRecall.from_pretrained(config=MemRecallConfig(**settings))
    assert isinstance(changed.parts.gate, ClassifierGate)
    assert changed.config.scan.top_k == 1


def test_saved_and_loaded_it_is_the_same(memory: MemRecall, tmp_path: Path) -> None:
    memory.save_pretrained(tmp_path / "saved")
    again = MemRecall.from_pretrained(tmp_path / "saved")
    assert again.fingerprint == memory.fingerprint
    made = blocks(memory)
    question = next(iter(QUESTIONS))
    scores = [one.parts.gate.score(question, WorkingMemory(), list(made.values())) for one in (memory, again)]
    assert scores[0] == scores[1]
