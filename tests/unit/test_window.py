"""A gate that reads with some of the backbone's layers, and blocks that hold no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from memrecall_kv import MemRecall
from memrecall_kv.assemble import Parts
from memrecall_kv.backbone import attention
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.backbone.window import LayerWindow, narrowed
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import (
    BankConfig,
    ChunkingConfig,
    CompressorConfig,
    GateConfig,
    MemRecallConfig,
    ReasonerConfig,
)
from memrecall_kv.errors import (
    ConfigError,
    ContextOverflowError,
    FingerprintMismatchError,
    InputError,
    UnsupportedModelError,
)
from memrecall_kv.recall.gate import ClassifierGate, seeing_of
from memrecall_kv.recall.reasoner import TunedReasoner
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk, Document, MemoryBlock, Note, WorkingMemory
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

NOTES = WorkingMemory((Note("something known", "d#0"),))
KINDS = ["llama", "qwen2", "qwen3", "mistral"]
"""Of `tiny_backbone`."""


@pytest.fixture(scope="module", params=KINDS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


def blocks(backbone: Backbone, budget: str = "uniform", layers: tuple[int, int] | None = None) -> list[MemoryBlock]:
    config = CompressorConfig(compression_ratio=2, importance="key_diff", budget=budget)
    chunks = [Chunk("d", index, 0, 1, text, 1) for index, text in enumerate(["one text here", "text of other"])]
    return OperatorCompressor(backbone, config, layers=layers).compress(chunks)


def gate(
    backbone: Backbone, window: LayerWindow | None, seeing: int = 99, noted: int | None = None, **config: object
) -> ClassifierGate:
    adapter = LoraAdapter.create(backbone.model, ("q_proj", "down_proj"), rank=2, alpha=4)
    generator = torch.Generator().manual_seed(0)
    for _, second in adapter.deltas.values():
        torch.nn.init.normal_(second, generator=generator)
    weight = torch.randn(backbone.model.config.hidden_size, generator=generator)
    config = {"batch_size": 3, "seeing_tokens": seeing, "noted_seeing_tokens": noted, **config}
    return ClassifierGate(backbone, GateConfig(**config), adapter, weight, torch.tensor(0.1), window=window)


def depth(backbone: Backbone) -> int:
    return int(backbone.model.config.num_hidden_layers)


@pytest.mark.parametrize("budget", ["uniform", "adaptive"])
def test_a_window_of_all_layers_is_the_whole_gate(backbone: Backbone, budget: str) -> None:
    made = blocks(backbone, budget)
    (extent,) = {block.extent for block in made}
    window = LayerWindow(backbone.kv, 0, depth(backbone), start=1 + extent)
    got = gate(backbone, window).score("which one?", NOTES, made)
    assert got == pytest.approx(gate(backbone, None).score("which one?", NOTES, made), abs=1e-5)


def test_blocks_of_the_windows_layers_are_judged_as_whole_ones(backbone: Backbone) -> None:
    window = LayerWindow(backbone.kv, 1, 2, start=33)
    whole = gate(backbone, window).score("which one?", NOTES, blocks(backbone))
    held = blocks(backbone, layers=(1, 2))
    assert {len(block.keys) for block in held} == {1}
    assert gate(backbone, window).score("which one?", NOTES, held) == pytest.approx(whole, abs=1e-5)
    assert whole[0] != pytest.approx(whole[1], abs=1e-4)
    swapped = gate(backbone, window).score("which one?", NOTES, held[::-1])
    assert swapped == pytest.approx(whole[::-1], abs=1e-5)


def test_what_a_block_holds_below_the_window_makes_no_difference(backbone: Backbone) -> None:
    made = blocks(backbone)
    blind = [replace(block, keys=block.keys.clone(), values=block.values.clone()) for block in made]
    for block in blind:
        block.keys[:1], block.values[:1] = 7.0, 7.0
    judge = gate(backbone, LayerWindow(backbone.kv, 1, depth(backbone), start=33))
    assert judge.score("which?", NOTES, blind) == pytest.approx(judge.score("which?", NOTES, made), abs=1e-6)
    for block in blind:
        block.values[1:] = 7.0
    assert judge.score("which?", NOTES, blind) != pytest.approx(judge.score("which?", NOTES, made), abs=1e-3)


def test_only_the_telling_tokens_of_a_prompt_see_a_block(backbone: Backbone) -> None:
    """The reference: one plain forward over sink, chunk and prompt, under a mask that hides the chunk from the rest."""
    chunk, prompt, count = backbone.encode("one text here"), backbone.encode("what is known of it?"), 7
    kv, start = backbone.kv, 1 + len(chunk)
    window, seeing = (
        LayerWindow(kv, 0, depth(backbone), start=start),
        seeing_of(backbone, "what is known of it?", count),
    )
    with torch.inference_mode():
        block = whole_blocks(kv.prefill([chunk]), [chunk])
        got = window.read(window.read_prompt([prompt]).seen_by([seeing]), [window.place(block)])
        ids = torch.tensor([[backbone.sink_id, *chunk, *prompt]])
        seen = torch.ones(len(ids[0]), len(ids[0]), dtype=torch.bool).tril()
        blind = [start + place for place in range(len(prompt)) if place not in seeing]
        assert len(blind) == len(prompt) - count
        seen[blind, 1:start] = False
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        expected = kv.base(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def seen(backbone: Backbone, prompt: str, count: int) -> str:
    """Return a prompt with what does not see a block as dots; every byte is a token."""
    seeing = seeing_of(backbone, prompt, count)
    assert len(seeing) == min(count, len(prompt.encode()))
    return bytes(byte if place in seeing else ord(".") for place, byte in enumerate(prompt.encode())).decode()


def test_the_ends_of_long_words_where_they_come_last_and_of_the_prompt_are_telling(backbone: Backbone) -> None:
    prompt = "Ada Lovelace, and who is the Ada of it: Lovelace?"
    assert seen(backbone, prompt, 2) == f"{'.' * 47}e?"
    assert seen(backbone, prompt, 6) == "....................o......e.................ace?"
    assert seen(backbone, prompt, 9) == "................d...o......e...a.....t.......ace?"
    assert seen(backbone, prompt, 99) == prompt
    assert seen(backbone, "of a b?", 6) == ".f a b?"


def test_what_a_tokenizer_drops_sees_nothing(backbone: Backbone) -> None:
    """Of a tokenizer without a token for what it does not know, nothing stands for it."""
    letters = Tokenizer(BPE({"<s>": 0, "w": 1, "h": 2, "o": 3, "?": 4}, []))
    letters.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>")  # noqa: S106  # no password
    dropping = replace(backbone, tokenizer=tokenizer)
    for prompt in ("XXX who ho?", "who XXX ho?", "who ho? XXX", "XXX"):
        ids = dropping.encode(prompt)
        assert len(ids) == len(prompt.replace("X", "").replace(" ", ""))
        assert seeing_of(dropping, prompt, 5) == list(range(len(ids)))[-5:]


def test_of_a_script_without_spaces_each_letter_is_a_word(backbone: Backbone) -> None:
    ends = {3 * number + 2 for number in range(5)}
    assert ends < {*seeing_of(backbone, "\u6771\u4eac\u306e\u4eba\u53e3?", 4 + len(ends) - 1)}


def test_with_notes_every_token_sees_a_block_or_as_many_as_are_set(backbone: Backbone) -> None:
    made, notes = blocks(backbone), WorkingMemory((Note("known", "d#0"),))
    (extent,) = {block.extent for block in made}
    window = LayerWindow(backbone.kv, 0, depth(backbone), start=1 + extent)
    few, whole = gate(backbone, window, seeing=2), gate(backbone, None)
    assert few.score("which?", notes, made) == pytest.approx(whole.score("which?", notes, made), abs=1e-5)
    first = few.score("which?", WorkingMemory(), made)
    assert first != pytest.approx(whole.score("which?", WorkingMemory(), made), abs=1e-5)
    both = [gate(backbone, window, seeing=2, noted=count).score("which?", notes, made) for count in (2, 99)]
    assert both[0] != pytest.approx(whole.score("which?", notes, made), abs=1e-5)
    assert both[1] == pytest.approx(whole.score("which?", notes, made), abs=1e-5)
    assert gate(backbone, window, seeing=2, noted=99).score("which?", WorkingMemory(), made) == pytest.approx(first)


def test_a_glance_is_a_look_with_fewer_tokens(backbone: Backbone) -> None:
    made, window = blocks(backbone), LayerWindow(backbone.kv, 0, depth(backbone), start=33)
    few = gate(backbone, window, seeing=3, noted=3)
    both = gate(backbone, window, kind="classifier", layers=(0, depth(backbone)), glance_tokens=3)
    for notes in (NOTES, WorkingMemory(), NOTES):
        for question in ("which one?", "who?"):
            whole = both.score(question, notes, made)
            glance = both.glance(question, notes, made)
            assert glance == pytest.approx(few.score(question, notes, made), abs=1e-6)
            assert glance != pytest.approx(whole, abs=1e-4)
            assert both.score(question, notes, made) == whole
            # what a glance says is of the block, too
            assert both.glance(question, notes, made[::-1]) == pytest.approx(glance[::-1], abs=1e-6)


def test_a_prompt_beyond_the_backbones_window_is_refused(backbone: Backbone) -> None:
    window = LayerWindow(backbone.kv, 1, depth(backbone), start=33)
    with pytest.raises(ContextOverflowError, match="4096"):
        gate(backbone, window).score("x" * 5000, WorkingMemory(), blocks(backbone)[:1])


def test_prompts_of_different_lengths_are_read_side_by_side_as_alone(backbone: Backbone) -> None:
    window = LayerWindow(backbone.kv, 1, depth(backbone), start=33)
    texts, made = ("who is it?", "what is known of it, and since when?"), blocks(backbone)
    prompts, seeing = [backbone.encode(text) for text in texts], [seeing_of(backbone, text, 3) for text in texts]
    with torch.inference_mode():
        begun = window.read_prompt(prompts).seen_by(seeing)
        together = window.read(begun.rows([1, 0, 1]), [window.place([made[n]]) for n in (0, 1, 1)])
        for row, (prompt, block) in enumerate([(1, 0), (0, 1), (1, 1)]):
            read = window.read_prompt([prompts[prompt]]).seen_by([seeing[prompt]])
            alone = window.read(read, [window.place([made[block]])])
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_block_is_the_same_whether_it_is_narrowed_or_made_narrow(backbone: Backbone) -> None:
    for whole, made in zip(blocks(backbone), blocks(backbone, layers=(1, 2)), strict=True):
        torch.testing.assert_close(narrowed(whole, 1, 2).keys, made.keys)
        torch.testing.assert_close(narrowed(whole, 1, 2).values, made.values)


@pytest.mark.parametrize("layers", [(0, 9), (-1, 1), (1, 1)])
def test_layers_that_are_not_there_are_refused(layers: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="layers"):
        LayerWindow(tiny_backbone("llama").kv, *layers, start=9)


def test_a_backbones_attention_is_what_it_was_after_a_window(backbone: Backbone) -> None:
    window, made = LayerWindow(backbone.kv, 0, depth(backbone), start=33), blocks(backbone)
    before = backbone.model.config._attn_implementation
    gate(backbone, window).score("which?", NOTES, made)
    assert backbone.model.config._attn_implementation == before
    with pytest.raises(KeyError), attention.beside(backbone.model.base_model.layers):
        assert backbone.model.config._attn_implementation != before
        raise KeyError
    assert backbone.model.config._attn_implementation == before


def test_attention_with_more_to_it_is_refused(backbone: Backbone) -> None:
    with (
        pytest.raises(UnsupportedModelError, match=r"Leave out gate\.layers"),
        torch.inference_mode(),
        attention.beside(backbone.model.base_model.layers),
    ):
        window = attention.Beside((), torch.zeros(1, 1, 2, 2))
        hidden, places = torch.zeros(1, 2, backbone.model.config.hidden_size), torch.arange(2)[None]
        backbone.model.base_model.layers[0](
            hidden, position_embeddings=backbone.kv.base.rotary_emb(hidden, places), beside=window, softcap=30.0
        )
    frozen = SimpleNamespace(base=SimpleNamespace(layers=[1, 2], _supports_attention_backend=False))
    with pytest.raises(UnsupportedModelError, match="attention be chosen"):
        LayerWindow(frozen, 0, 1, start=9)


def settings(layers: str) -> MemRecallConfig:
    return MemRecallConfig(
        gate=GateConfig(kind="classifier", layers=(1, 2), threshold=0.0),
        reasoner=ReasonerConfig(kind="tuned", max_answer_tokens=4),
        bank=BankConfig(layers=layers, storage="native"),
        chunking=ChunkingConfig(chunk_tokens=32),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Save a pipeline with an untrained gate and reader whose bank holds the layers that are named."""
    backbone = tiny_backbone("llama")
    backbone.model.save_pretrained(tmp_path / "backbone")
    backbone.tokenizer.save_pretrained(tmp_path / "backbone")
    backbone = replace(backbone, name=str(tmp_path / "backbone"))

    def save(layers: str) -> Path:
        config = settings(layers)
        window = LayerWindow(backbone.kv, 1, 2, start=33)
        deltas = LoraAdapter.create(backbone.model, ("q_proj",), rank=2, alpha=4)
        parts = Parts(
            backbone,
            OperatorCompressor(backbone, config.compressor, layers=config.block_layers),
            gate(backbone, window),
            TunedReasoner(backbone, config.reasoner, deltas),
            config,
        )
        MemRecall(parts).save_pretrained(tmp_path / layers)
        return tmp_path / layers

    return save


def test_a_bank_of_the_gates_layers_is_smaller_and_recalls_the_same(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    found, sizes = [], []
    for layers in ("all", "gate"):
        memory = MemRecall.from_pretrained(saved(layers), dtype="float32")
        with memory.open_bank(tmp_path / f"{layers}.bank") as bank:
            memory.ingest(bank, [Document("a", "words of one text"), Document("b", "words of another one")])
            answer = memory.ask(bank, "which words?", top_k=1)
            found.append([(recall.chunk.id, round(recall.gate_probability, 4)) for recall in answer.evidence])
            sizes.append(bank.stats().live_bytes)
    assert found[0] == found[1]
    assert len(found[0]) == 1
    assert sizes[1] < 0.75 * sizes[0]  # one layer of two


@pytest.mark.parametrize("is_windowed", [True, False])
def test_a_pipeline_glances_and_judges_in_full_what_it_opens(
    saved: Callable[[str], Path], tmp_path: Path, is_windowed: bool
) -> None:
    path = saved("all")
    config = json.loads((path / "memrecall_config.json").read_text())["settings"]
    config["gate"] |= {"glance_tokens": 3, "full_looks": 2} | ({} if is_windowed else {"layers": None})
    memory = MemRecall.from_pretrained(path, config=MemRecallConfig(**config), dtype="float32")
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document(str(number), f"words of text {number}") for number in range(6)])
        walk = memory.begin(bank, "which words?", top_k=1)
        judge, looks = walk.relevance.judge, []

        def told(question, notes, chunks, at_a_glance=False):
            looks.append((at_a_glance, [chunk.id for chunk in chunks]))
            return judge(question, notes, chunks, at_a_glance)

        walk.relevance.judge = told
        for _ in walk.events():
            pass
    assert [(at_a_glance, len(ids)) for at_a_glance, ids in looks] == (
        [(True, 6), (False, 2)] if is_windowed else [(False, 6)]
    )
    assert walk.recalls[0].chunk.id in looks[-1][1]


def test_a_bank_of_all_layers_goes_on_holding_all(saved: Callable[[str], Path], tmp_path: Path) -> None:
    whole, some = (MemRecall.from_pretrained(saved(layers), dtype="float32") for layers in ("all", "gate"))
    found = []
    for second in (whole, some):
        with whole.open_bank(tmp_path / "bank") as bank:
            whole.ingest(bank, [Document("a", "words of one text")])
        with second.open_bank(tmp_path / "bank") as bank:
            second.ingest(bank, [Document("b", "words of another one")])
            recalls = second.recall(bank, "which words?", top_k=2)
            found.append([(recall.chunk.id, round(recall.gate_probability, 4)) for recall in recalls])
            assert "layers" not in bank.fingerprint
        with whole.open_bank(tmp_path / "bank") as bank:
            assert len(whole.recall(bank, "which words?", top_k=2)) == 2
            bank.delete("b")
    assert found[0] == found[1]


def test_a_bank_of_other_layers_is_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    MemRecall.from_pretrained(saved("gate"), dtype="float32").open_bank(tmp_path / "bank").close()
    with pytest.raises(FingerprintMismatchError, match="layers"):
        MemRecall.from_pretrained(saved("all"), dtype="float32").open_bank(tmp_path / "bank")


@pytest.mark.parametrize(
    "changed",
    [
        {"gate": GateConfig()},
        {"reasoner": ReasonerConfig()},
        {"reasoner": ReasonerConfig(kind="tuned", readback="off")},
        {"compressor": CompressorConfig(importance="surprisal")},
        {"compressor": CompressorConfig(kind="memory_tokens")},
    ],
    ids=str,
)
def test_settings_under_which_other_parts_read_blocks_are_refused(changed: dict[str, Any]) -> None:
    given = {name: getattr(settings("gate"), name) for name in ("gate", "reasoner", "bank", "chunking")}
    with pytest.raises(ConfigError, match=r"bank\.layers"):
        MemRecallConfig(**{**given, **changed})


@pytest.mark.parametrize("layers", [(2, 1), (-1, 1), (1, 1)])
def test_a_range_that_is_none_is_refused(layers: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="layers"):
        GateConfig(kind="classifier", layers=layers)


def test_a_likelihood_reads_with_all_layers() -> None:
    with pytest.raises(ConfigError, match="layers"):
        GateConfig(layers=(0, 1))
