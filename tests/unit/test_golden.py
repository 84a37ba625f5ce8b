"""Parity of the `reference` layout with tensors of the reference implementation."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from memrecall_kv.backbone.decoding import generate
from memrecall_kv.backbone.loading import load_backbone, wrap_backbone
from memrecall_kv.compress.published import (
    ReferenceCompressor,
    ReferenceWeights,
    interleave,
    is_official_directory,
    official_config,
)
from memrecall_kv.config import CompressorConfig
from memrecall_kv.errors import ContextOverflowError, InputError, UnsupportedModelError
from memrecall_kv.testing import byte_tokenizer
from memrecall_kv.types import Chunk
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

CASES = {
    "case_a_one_chunk": 1,
    "case_b_three_chunks_last_22": 3,
    "case_b_three_chunks_last_45": 3,
    "case_e_single_window_chunk": 1,
    "case_x_recurrent_loop": 3,
}
CHUNKS = [(case, index) for case, number in CASES.items() for index in range(number)]
TOLERANCE = {"rtol": 0, "atol": 1e-4}
MEMORY_ID = 512
MEMORY_SIZE = 8


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no golden tensors in {folder}")
    return folder


@pytest.fixture(scope="module")
def backbone(golden):
    loaded = load_backbone(golden, dtype="float32")
    return wrap_backbone(loaded.model, byte_tokenizer(), "golden")


@pytest.fixture(scope="module")
def weights(golden):
    return ReferenceWeights.from_directory(golden)


@pytest.fixture(scope="module")
def cases(golden):
    read = {}
    for name in CASES:
        with safe_open(golden / f"{name}.safetensors", framework="pt") as handle:
            settings = handle.metadata()
        read[name] = load_file(golden / f"{name}.safetensors"), settings
    return read


@pytest.fixture(scope="module")
def compressor_for(backbone, weights):
    def build(settings):
        config = CompressorConfig(
            kind="memory_tokens",
            layout="reference",
            compression_ratio=int(settings["ratio"]),
            window=int(settings["window"]),
        )
        return ReferenceCompressor(backbone, weights, config, chunk_tokens=int(settings["chunk_size"]))

    return build


@pytest.fixture(scope="module")
def blocks(cases, compressor_for):
    """Return every case's blocks, the chunks of a case compressed as one batch."""
    with torch.inference_mode():
        return {name: compressor_for(cases[name][1]).compress_ids(chunk_rows(*cases[name])) for name in CASES}


@pytest.fixture(scope="module")
def full(cases, compressor_for):
    """Return a compressor, a full chunk's ids and its block."""
    tensors, settings = cases["case_a_one_chunk"]
    compressor = compressor_for(settings)
    row = chunk_rows(tensors, settings)[0]
    return compressor, row, compressor.compress_ids([row])[0]


def chunk_rows(tensors, settings):
    ids = tensors["doc_ids"][0][tensors["doc_mask"][0].bool()].tolist()
    size = int(settings["chunk_size"])
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def read_logits(backbone, rows, ids):
    """Return the logits of a text read after blocks, `[1, Q, V]`."""
    with torch.inference_mode():
        return backbone.kv.logits(
            backbone.kv.forward(backbone.kv.place([rows], unrotated=True), ids=torch.as_tensor(ids))
        )


def decode(backbone, rows, prompt, steps):
    with torch.inference_mode():
        return [step[0] for step in generate(backbone, backbone.kv.place([rows], unrotated=True), [prompt], steps)]


def check_memory(block, tensors, chunk):
    valid = tensors[f"chunk{chunk}.kv_mask"][0].bool()
    torch.testing.assert_close(block.keys, tensors[f"chunk{chunk}.memory_keys"][:, 0, :, valid], **TOLERANCE)
    torch.testing.assert_close(block.values, tensors[f"chunk{chunk}.memory_values"][:, 0, :, valid], **TOLERANCE)
    assert block.extent == len(valid)
    assert block.positions.tolist() == [[list(range(int(valid.sum())))]]


def check_reading(backbone, rows, tensors, turn):
    """Compare the logits of prompt and recorded continuation, and decode freely."""
    prompt, greedy = tensors[f"{turn}.prompt_ids"], tensors[f"{turn}.greedy_ids"]
    logits = read_logits(backbone, rows, torch.cat([prompt, greedy[:, :-1]], dim=1))
    size = prompt.shape[1]
    torch.testing.assert_close(logits[:, :size], tensors[f"{turn}.prompt_logits"], **TOLERANCE)
    torch.testing.assert_close(logits[:, size - 1 :], tensors[f"{turn}.step_logits"], **TOLERANCE)
    assert decode(backbone, rows, prompt[0].tolist(), greedy.shape[1]) == greedy[0].tolist()


@pytest.mark.parametrize(("case", "chunk"), CHUNKS)
def test_memory_is_that_of_the_reference(cases, blocks, case, chunk):
    check_memory(blocks[case][chunk], cases[case][0], chunk)


@pytest.mark.parametrize(("case", "chunk"), CHUNKS)
def test_a_chunk_does_not_depend_on_its_batch(cases, compressor_for, case, chunk):
    tensors, settings = cases[case]
    (block,) = compressor_for(settings).compress_ids([chunk_rows(tensors, settings)[chunk]])
    check_memory(block, tensors, chunk)


@pytest.mark.parametrize(("case", "chunk"), CHUNKS)
def test_a_prompt_reads_memory_as_the_reference_does(backbone, cases, blocks, case, chunk):
    check_reading(backbone, [blocks[case][chunk]], cases[case][0], f"chunk{chunk}")


@pytest.mark.parametrize(("case", "chunk"), CHUNKS)
def test_windows_are_laid_out_as_in_the_reference(cases, case, chunk):
    tensors, settings = cases[case]
    row, window, ratio = chunk_rows(tensors, settings)[chunk], int(settings["window"]), int(settings["ratio"])
    for index, start in enumerate(range(0, len(row), window)):
        mixed = interleave(row[start : start + window], ratio, MEMORY_ID)
        name = f"chunk{chunk}.window{index}"
        earlier = index * window // ratio
        real = tensors[f"{name}.mask"][0, earlier:].bool()
        # the recording goes on with memory tokens of padding, which are cut here
        assert tensors[f"{name}.mixed_ids"][0][real][: len(mixed)].tolist() == mixed
        positions = tensors[f"{name}.positions"][0, earlier:][real][: len(mixed)]
        assert positions.tolist() == list(range(earlier, earlier + len(mixed)))


def test_the_recurrent_loop_runs_from_document_and_question(backbone, cases, compressor_for):
    tensors, settings = cases["case_x_recurrent_loop"]
    question = tensors["question_ids"][0].tolist()
    memory = [110, 111, 110, 101]
    for index, block in enumerate(compressor_for(settings).compress_ids(chunk_rows(tensors, settings))):
        prompt = [60, 117, *question, 109, *memory, 58, 62, 10]
        assert prompt == tensors[f"chunk{index}.prompt_ids"][0].tolist()
        memory = decode(backbone, [block], prompt, MEMORY_SIZE)[-MEMORY_SIZE:]
    prompt = [60, 102, *question, 109, *memory, 61, 62, 10]
    assert prompt == tensors["final.prompt_ids"][0].tolist()
    check_reading(backbone, [], tensors, "final")


@pytest.mark.parametrize(
    ("token", "layer1", "layer2"),
    [
        *[(token, range(16)[:8], range(16)) for token in (0, 1, 3)],
        (4, range(1, 8), range(1, 16)),
        (13, range(3, 8), range(3, 16)),
        *[(token, range(7, 8), range(7, 16)) for token in (28, 31)],
        *[(token, range(8, 16), range(8, 16)) for token in (32, 33)],
        (50, range(12, 16), range(12, 16)),
        (63, range(15, 16), range(15, 16)),
    ],
)
def test_a_changed_token_changes_what_can_see_it_and_nothing_else(full, token, layer1, layer2):
    compressor, row, block = full
    (other,) = compressor.compress_ids([[*row[:token], (row[token] + 7) % 500, *row[token + 1 :]]])
    moved = ((other.keys - block.keys).abs() + (other.values - block.values).abs()).amax(dim=(1, 3)) > 1e-5
    assert [layer.nonzero().squeeze(1).tolist() for layer in moved] == [[], list(layer1), list(layer2)]


def test_layer_0_holds_one_constant_vector_per_head(blocks):
    first = blocks["case_a_one_chunk"][0]
    for block in blocks["case_b_three_chunks_last_45"]:
        for ours, theirs in ((block.keys, first.keys), (block.values, first.values)):
            torch.testing.assert_close(ours[0], theirs[0, :, :1].expand_as(ours[0]), **TOLERANCE)


def test_the_order_of_memory_tokens_is_free_but_keys_and_values_belong_together(backbone, cases, full):
    prompt, block = cases["case_a_one_chunk"][0]["chunk0.prompt_ids"], full[2]
    logits = read_logits(backbone, [block], prompt)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    both = replace(block, keys=block.keys[:, :, order], values=block.values[:, :, order])
    torch.testing.assert_close(read_logits(backbone, [both], prompt), logits, **TOLERANCE)
    alone = replace(block, keys=block.keys[:, :, order])
    assert (read_logits(backbone, [alone], prompt) - logits).abs().max() > 0.5


@pytest.mark.parametrize("shift", [-1, 1, 5])
def test_the_prompt_stands_right_after_the_physical_slots(backbone, cases, full, shift):
    prompt, block = cases["case_a_one_chunk"][0]["chunk0.prompt_ids"], full[2]
    moved = read_logits(backbone, [replace(block, extent=block.extent + shift)], prompt)
    assert (moved - read_logits(backbone, [block], prompt)).abs().max() > 0.5


@pytest.mark.parametrize(
    ("length", "chunk_tokens", "extent"), [(22, 64, 16), (22, None, 8), (33, None, 16), (64, 70, 24), (70, 64, 24)]
)
def test_a_block_takes_the_slots_of_a_chunk_of_whole_windows(backbone, weights, golden, length, chunk_tokens, extent):
    compressor = ReferenceCompressor(backbone, weights, official_config(golden), chunk_tokens=chunk_tokens)
    (block,) = compressor.compress_ids([list(range(length))])
    assert (block.extent, block.num_memory_tokens, block.num_source_tokens) == (extent, -(-length // 4), length)


def test_chunks_of_text_are_compressed_in_their_order(backbone, weights, golden):
    config = official_config(golden)
    compressor = ReferenceCompressor(backbone, weights, config, chunk_tokens=64)
    texts = ["short", "a longer text that goes on and on until it fills a window", "x" * 64] * 30
    chunks = [Chunk("doc", index, 0, len(text), text, len(text)) for index, text in enumerate(texts)]
    made = compressor.compress(chunks)
    for chunk, block in zip(chunks[-3:], made[-3:], strict=True):
        (alone,) = compressor.compress_ids([backbone.encode(chunk.text)])
        torch.testing.assert_close(block.keys, alone.keys, **TOLERANCE)
        assert block.extent == 16
    assert compressor.compress([]) == []
    with pytest.raises(InputError, match="no tokens"):
        compressor.compress([Chunk("doc", 0, 0, 0, "", 0)])


def test_a_window_beyond_the_backbone_is_refused(backbone, weights):
    config = CompressorConfig(kind="memory_tokens", layout="reference", compression_ratio=4, window=1024)
    with pytest.raises(ContextOverflowError, match="1024"):
        ReferenceCompressor(backbone, weights, config).compress_ids([list(range(500)) * 2])


@pytest.mark.parametrize("fails", [False, True])
def test_the_backbone_is_as_it_was_after_compressing(backbone, full, cases, fails):
    model, prompt = backbone.model, cases["case_a_one_chunk"][0]["chunk0.prompt_ids"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(prompt).logits
    compressor, row, _ = full
    if fails:
        memory = torch.zeros(1, 20, dtype=torch.bool)
        memory[0, 19] = True
        with pytest.raises(IndexError), compressor.weights.active(model, memory):
            model(prompt[:, :5])  # memory tokens are marked where there are none
    else:
        compressor.compress_ids([row])
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(prompt).logits, logits)


def test_an_official_directory_loads_in_silence_as_the_plain_backbone(golden, tmp_path, caplog, capfd):
    folder = tmp_path / "official"
    folder.mkdir()
    shutil.copy(golden / "config.json", folder)
    shutil.copy(golden / "model.safetensors", folder)
    byte_tokenizer().save_pretrained(folder)
    backbone = load_backbone(folder, dtype="float32")
    assert "UNEXPECTED" not in capfd.readouterr().err + caplog.text

    plain = tmp_path / "plain"
    backbone.model.save_pretrained(plain)
    byte_tokenizer().save_pretrained(plain)
    assert load_backbone(plain, dtype="float32").fingerprint == backbone.fingerprint
    assert is_official_directory(folder)
    assert not any("lychee" in name for name in backbone.model.state_dict())


def test_settings_are_read_from_an_official_config(golden, tmp_path):
    assert official_config(golden) == CompressorConfig(
        kind="memory_tokens", layout="reference", compression_ratio=4, window=32
    )
    assert not is_official_directory(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert not is_official_directory(tmp_path)
    with pytest.raises(InputError, match="one ratio"):
        official_config(tmp_path)


@pytest.mark.parametrize(
    "variant", [{"pos": "append"}, {"ratio": [2, 4]}, {"stride": 16}, {"param": ["q", "k", "v", "o"]}, {"sink_size": 1}]
)
def test_a_variant_that_is_not_implemented_is_refused(golden, tmp_path, variant):
    config = json.loads((golden / "config.json").read_text())
    config |= {f"lychee_memory_{name}": value for name, value in variant.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=next(iter(variant))):
        official_config(tmp_path)


def test_a_sharded_checkpoint_holds_the_same_memory_parameters(golden, weights, tmp_path):
    tensors = load_file(golden / "model.safetensors")
    parts = [dict(list(tensors.items())[start::2]) for start in range(2)]
    places = {}
    for number, part in enumerate(parts):
        save_file(part, tmp_path / f"model-{number}.safetensors")
        places |= dict.fromkeys(part, f"model-{number}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert ReferenceWeights.from_directory(tmp_path).digest == weights.digest


def test_saved_weights_come_back_and_hold_nothing_else(golden, weights, tmp_path):
    weights.save(tmp_path)
    assert ReferenceWeights.from_directory(tmp_path).digest == weights.digest
    official = {name for name in load_file(golden / "model.safetensors") if "lychee_memory_" in name}
    assert load_file(tmp_path / "model.safetensors").keys() == official


def test_without_memory_parameters_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="from_backbone"):
        ReferenceWeights.from_directory(tmp_path)
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="from_backbone"):
        ReferenceWeights.from_directory(tmp_path)


def test_weights_from_a_backbone_make_memory_tokens_eos_tokens(access):
    backbone = access("qwen2")
    weights = ReferenceWeights.from_backbone(backbone)
    config = CompressorConfig(kind="memory_tokens", layout="reference", compression_ratio=4, window=16)
    row = list(range(16))
    (block,) = ReferenceCompressor(backbone, weights, config).compress_ids([row])
    mixed = interleave(row, 4, 257)  # eos
    with torch.inference_mode():
        state = backbone.kv.start(1)
        backbone.kv.forward(state, ids=torch.tensor([mixed]))
        columns = torch.tensor([4, 9, 14, 19])
        keys, values = backbone.kv.take(state, columns, columns[None])
    torch.testing.assert_close(block.keys, keys[:, 0], **TOLERANCE)
    torch.testing.assert_close(block.values, values[:, 0], **TOLERANCE)


def test_weights_of_another_backbone_are_refused(backbone, weights, golden, access):
    config = official_config(golden)
    with pytest.raises(InputError, match="expected shape"):
        ReferenceCompressor(access("qwen2"), weights, config)
    name = "model.layers.1.self_attn.lychee_memory_k_proj.bias"
    damaged = {**weights.tensors, name: torch.full_like(weights.tensors[name], float("nan"))}
    with pytest.raises(InputError, match="NaN"):
        ReferenceCompressor(backbone, ReferenceWeights(damaged), config)
    missing = {key: value for key, value in weights.tensors.items() if key != name}
    with pytest.raises(InputError, match="k_proj"):
        ReferenceCompressor(backbone, ReferenceWeights(missing), config)
    with pytest.raises(UnsupportedModelError, match="q_proj"):
        weights.check(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8, n_positions=8)))


def test_the_digest_names_weights_window_and_chunk_size(backbone, weights, golden):
    config = official_config(golden)
    name = "model.lychee_memory_embed_tokens.weight"
    other = ReferenceWeights({**weights.tensors, name: weights.tensors[name] + 1})
    wider = CompressorConfig(**{**config.model_dump(), "window": 64})
    digests = {
        ReferenceCompressor(backbone, weights, config).digest,
        ReferenceCompressor(backbone, weights, config, chunk_tokens=64).digest,
        ReferenceCompressor(backbone, weights, wider, chunk_tokens=64).digest,
        ReferenceCompressor(backbone, other, config).digest,
    }
    assert len(digests) == 4
    assert ReferenceCompressor(backbone, weights, config).digest in digests


def test_bfloat16_stays_as_close_as_the_reference_itself(golden, weights, cases):
    tensors, settings = cases["case_b_three_chunks_last_45"]
    backbone = wrap_backbone(load_backbone(golden, dtype="bfloat16").model, byte_tokenizer(), "golden")
    compressor = ReferenceCompressor(backbone, weights, official_config(golden), chunk_tokens=64)
    with torch.inference_mode():
        made = compressor.compress_ids(chunk_rows(tensors, settings))
    for index, block in enumerate(made):
        valid = tensors[f"chunk{index}.kv_mask"][0].bool()
        expected = tensors[f"chunk{index}.memory_keys"][:, 0, :, valid]
        assert (block.keys.float() - expected).abs().max() < 0.12


def test_a_tiny_backbone_of_every_family_takes_the_layout(access):
    config = CompressorConfig(kind="memory_tokens", layout="reference", compression_ratio=4, window=16)
    for family in ("llama", "qwen2", "qwen3", "mistral"):
        backbone = access(family)
        compressor = ReferenceCompressor(backbone, ReferenceWeights.from_backbone(backbone), config)
        (block,) = compressor.compress_ids([list(range(21))])
        assert block.num_memory_tokens == 6
