"""A tuned reasoner reads blocks or texts in the form it was trained on, and its deltas are on only while it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memrecall_kv import MemRecall
from memrecall_kv.backbone import decoding
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig, MemRecallConfig, ReasonerConfig
from memrecall_kv.errors import ConfigError
from memrecall_kv.recall import prompts
from memrecall_kv.recall.reasoner import BackboneReasoner, Tally, TunedReasoner
from memrecall_kv.testing import tiny_backbone, tiny_memory
from memrecall_kv.types import Chunk, Note, Recall, WorkingMemory

TEXT = "The otter sleeps by the river."


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone("llama")


def deltas(backbone: Backbone, size: float = 1.0) -> LoraAdapter:
    adapter = LoraAdapter.create(backbone.model, ("q_proj", "v_proj"), rank=2, alpha=4)
    for _, second in adapter.deltas.values():
        torch.nn.init.normal_(second, std=size, generator=torch.Generator().manual_seed(1))
    return adapter


def said(
    backbone: Backbone,
    memory: WorkingMemory,
    *,
    readback: str,
    size: float = 1.0,
    budget: int = 320,
    among: Sequence[str] = (),
    reading: str = "apart",
    bias: float = 0.0,
) -> tuple[str, Tally]:
    chunk, tally = Chunk("d", 0, 0, len(TEXT), TEXT, len(TEXT)), Tally()
    config = ReasonerConfig(
        kind="tuned",
        readback=readback,
        max_answer_tokens=12,
        max_readback_tokens=budget,
        reading=reading,
        refusal_bias=bias,
    )
    blocks = OperatorCompressor(backbone, CompressorConfig(compression_ratio=1)).compress([chunk])
    reasoner = TunedReasoner(backbone, config, deltas(backbone, size))
    return "".join(reasoner.answer("Where?", memory, [Recall(chunk, 0.9, 0)], blocks, tally, among)), tally


def test_text_read_back_equals_the_block_of_ratio_one(backbone: Backbone) -> None:
    from_text, read = said(backbone, WorkingMemory(), readback="answer")
    from_block, opened = said(backbone, WorkingMemory(), readback="off")
    assert from_text == from_block != ""
    assert read.prompt_tokens - opened.prompt_tokens == len(TEXT) == opened.memory_tokens


def test_texts_read_together_are_one_prompt_that_the_deltas_read(backbone: Backbone) -> None:
    together, tally = said(backbone, WorkingMemory(), readback="answer", reading="together")
    request = backbone.encode(f"{TEXT}\n\nQuestion: Where?\nAnswer:")
    ids = [backbone.sink_id, *request]
    with torch.inference_mode(), deltas(backbone).active(backbone.model):
        for _ in range(12):
            last = backbone.kv.forward(backbone.kv.start(1), ids=torch.tensor([ids]))[:, -1]
            ids.append(int(backbone.kv.logits(last).argmax()))
    written = ids[1 + len(request) :]
    ended = next((n for n, token in enumerate(written) if token in backbone.stop_ids), len(written))
    assert together == backbone.decode(written[:ended]).lstrip().partition("\n")[0] != ""
    assert tally.prompt_tokens == 1 + len(request)
    assert together != said(backbone, WorkingMemory(), readback="answer")[0]


def test_a_bias_makes_a_refusal_begin_more_readily_and_changes_nothing_else(backbone: Backbone) -> None:
    plain, _ = said(backbone, WorkingMemory(), readback="answer")
    first = backbone.encode(f" {prompts.NOT_FOUND}")[0]
    pick = decoding.leaning([first], 2.0)
    given = torch.zeros(backbone.model.config.vocab_size)
    given[7], given[first] = 1.5, 0.0
    logits = [given.clone(), given.clone()]
    # at the beginning alone, and nothing that was given is changed
    assert [pick(each) for each in logits] == [first, 7]
    assert all(torch.equal(each, given) for each in logits)
    assert said(backbone, WorkingMemory(), readback="answer", bias=1e-6)[0] == plain
    leaning, _ = said(backbone, WorkingMemory(), readback="answer", bias=1e6)
    assert leaning != plain
    # a choice among spans is none between them and a refusal
    among = ("otter", "river")
    chosen = [said(backbone, WorkingMemory(), readback="answer", among=among, bias=b)[0] for b in (0.0, 1e6)]
    assert chosen[0] == chosen[1]
    assert chosen[0] in among


def test_what_does_not_fit_beside_texts_read_together_is_left_to_its_note(backbone: Backbone) -> None:
    noted = WorkingMemory((Note("It sleeps.", Chunk("d", 0, 0, len(TEXT), TEXT, len(TEXT)).id),))
    _, fits = said(backbone, noted, readback="answer", reading="together")
    _, small = said(backbone, noted, readback="answer", reading="together", budget=5)
    assert small.prompt_tokens == fits.prompt_tokens - len(TEXT) + len("\nKnown: It sleeps.")


@pytest.mark.parametrize(("readback", "reading"), [("answer", "apart"), ("answer", "together"), ("off", "apart")])
def test_an_answer_among_some_is_one_of_them(backbone: Backbone, readback: str, reading: str) -> None:
    for replies in (("otter", "river", "otters"), ("ott", "otter"), ("yes",)):
        chosen, tally = said(backbone, WorkingMemory(), readback=readback, among=replies, reading=reading)
        assert chosen in replies
        assert tally.generated_tokens == len(f" {chosen}")


@pytest.mark.parametrize("size", [0.0, 0.5, 1.0])
def test_the_likelier_start_decides_among_answers(backbone: Backbone, size: float) -> None:
    rows = [backbone.encode(TEXT)]
    state = backbone.kv.place([whole_blocks(backbone.kv.prefill(rows), rows)])
    asked = torch.tensor([backbone.encode(prompts.trained_answer("Where?") + " ")])
    with torch.inference_mode(), deltas(backbone, size).active(backbone.model):
        logits = backbone.kv.logits(backbone.kv.forward(state, ids=asked)[:, -1])[0]
    letters = "abcdefghijklmnopqrstuvwxyz"
    ranked = sorted(letters, key=lambda letter: -float(logits[backbone.encode(letter)]))
    for replies in (letters, ranked[3:9], ranked[:-10:-1]):
        expected = max(replies, key=lambda letter: float(logits[backbone.encode(letter)]))
        assert said(backbone, WorkingMemory(), readback="answer", size=size, among=list(replies))[0] == expected


def test_a_note_is_read_only_where_its_text_is_not(backbone: Backbone) -> None:
    chunk_id = Chunk("d", 0, 0, len(TEXT), TEXT, len(TEXT)).id
    noted = WorkingMemory((Note("It sleeps.", chunk_id),))
    _, fits = said(backbone, noted, readback="answer")
    _, plain = said(backbone, WorkingMemory(), readback="answer")
    assert fits.prompt_tokens == plain.prompt_tokens
    _, small = said(backbone, noted, readback="answer", budget=5)
    assert small.prompt_tokens == plain.prompt_tokens - len(TEXT) + len("\nKnown: It sleeps.")


def test_with_readback_the_nearest_sentences_are_noted_once_and_nothing_generated(backbone: Backbone) -> None:
    text = f"A boat passes. {TEXT} None of it rains."
    chunk, tally = Chunk("d", 0, 0, len(text), text, len(text)), Tally()
    (block,) = OperatorCompressor(backbone, CompressorConfig(compression_ratio=2)).compress([chunk])
    reasoner = TunedReasoner(backbone, ReasonerConfig(kind="tuned"), deltas(backbone))
    memory = reasoner.update("Where does the otter sleep?", WorkingMemory(), chunk, block, tally)
    assert memory == WorkingMemory((Note(f"A boat passes. {TEXT}", chunk.id),))
    assert reasoner.update("Where does the otter sleep?", memory, chunk, block, tally) is memory
    assert tally == Tally()
    off = TunedReasoner(backbone, ReasonerConfig(kind="tuned", readback="off", max_note_tokens=3), deltas(backbone))
    off.update("Where does the otter sleep?", WorkingMemory(), chunk, block, tally)
    assert tally.memory_tokens == block.num_memory_tokens


def test_an_older_note_keeps_the_sentence_nearest_to_the_question(backbone: Backbone) -> None:
    first, second = (
        Chunk(name, 0, 0, len(text), text, len(text))
        for name, text in (("a", f"A boat passes. {TEXT}"), ("b", "Rivers freeze. Ice breaks. An otter sleeps long."))
    )
    blocks = OperatorCompressor(backbone, CompressorConfig(compression_ratio=2)).compress([first, second])
    reasoner = TunedReasoner(backbone, ReasonerConfig(kind="tuned"), deltas(backbone))
    memory = WorkingMemory()
    for chunk, block in zip((first, second), blocks, strict=True):
        memory = reasoner.update("Where does the otter sleep?", memory, chunk, block, Tally())
    assert [note.text for note in memory.notes] == [TEXT, "Rivers freeze. An otter sleeps long."]


def test_deltas_are_on_only_while_it_reads(backbone: Backbone) -> None:
    chunk = Chunk("d", 0, 0, len(TEXT), TEXT, len(TEXT))
    reasoner = TunedReasoner(backbone, ReasonerConfig(kind="tuned", max_answer_tokens=12), deltas(backbone))
    pieces = reasoner.answer("Where?", WorkingMemory(), [Recall(chunk, 0.9, 0)], [], Tally())
    next(pieces)
    assert all(not module._forward_hooks for module in backbone.model.modules())
    assert (
        said(backbone, WorkingMemory(), readback="answer")[0]
        != said(backbone, WorkingMemory(), readback="answer", size=0.0)[0]
    )


def test_rewriting_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="notes"):
        TunedReasoner(backbone, ReasonerConfig(kind="tuned", memory="rewrite"), deltas(backbone))


def test_a_saved_pipeline_loads_its_reasoner_again(backbone: Backbone, tmp_path: Path) -> None:
    config = MemRecallConfig(reasoner=ReasonerConfig(kind="tuned", max_answer_tokens=8))
    zero_shot = tiny_memory()
    backbone.model.save_pretrained(tmp_path / "backbone")
    backbone.tokenizer.save_pretrained(tmp_path / "backbone")
    tuned = MemRecall(
        replace(zero_shot.parts, config=config, reasoner=TunedReasoner(backbone, config.reasoner, deltas(backbone)))
    )
    with pytest.raises(ConfigError, match="trained weights"):
        tiny_memory(config)
    backbone = replace(tuned.backbone, name=str(tmp_path / "backbone"))
    MemRecall(replace(tuned.parts, backbone=backbone)).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "reasoner" / "adapter_config.json").is_file()
    loaded = MemRecall.from_pretrained(tmp_path / "saved", dtype="float32")
    reasoner = loaded.parts.reasoner
    assert isinstance(reasoner, TunedReasoner)
    assert reasoner.adapter.digest == deltas(backbone).digest
    assert not isinstance(zero_shot.parts.reasoner, TunedReasoner)
    assert isinstance(zero_shot.parts.reasoner, BackboneReasoner)
