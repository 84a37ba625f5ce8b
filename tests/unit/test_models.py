import copy
import gc
import importlib.util

import pytest
import torch
from memrecall_kv.backbone.loading import load_backbone, wrap_backbone
from memrecall_kv.errors import InputError, MissingDependencyError, UnsupportedModelError
from memrecall_kv.testing import byte_tokenizer, tiny_backbone
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from transformers import (
    ByT5Tokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3NextConfig,
    T5Config,
)

SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def folder(tmp_path):
    """Return a directory with a tiny backbone in it."""
    save(tiny_backbone(), tmp_path / "tiny")
    return tmp_path / "tiny"


def save(backbone, path):
    backbone.model.save_pretrained(path)
    backbone.tokenizer.save_pretrained(path)


def change(folder, name, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_directory_is_loaded_once_and_shared(folder):
    backbone = load_backbone(folder, dtype="float32")
    assert load_backbone(str(folder), dtype="float32") is backbone
    assert load_backbone(folder, dtype="bfloat16") is not backbone
    assert load_backbone(folder, dtype="float32", attention="eager") is not backbone


def test_a_backbone_nobody_uses_is_let_go(folder):
    load_backbone(folder, dtype="float32")
    gc.collect()
    again = load_backbone(folder, dtype="float32")
    change(folder, "model.norm.weight", lambda weight: weight.mul_(2))
    assert load_backbone(folder, dtype="float32") is again
    fingerprint = again.fingerprint
    del again
    gc.collect()
    assert load_backbone(folder, dtype="float32").fingerprint != fingerprint


def test_a_loaded_backbone_is_the_saved_one_ready_for_use(folder):
    backbone, original = load_backbone(folder, dtype="float32"), tiny_backbone()
    assert backbone.fingerprint == original.fingerprint
    assert (backbone.name, backbone.window, backbone.sink_id) == (str(folder), 4096, 256)
    assert (backbone.device, backbone.dtype) == (torch.device("cpu"), torch.float32)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    ids = torch.arange(9)[None]
    torch.testing.assert_close(backbone.model(ids).logits, original.model(ids).logits)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_weights_have_the_dtype_that_was_asked_for(folder, dtype, expected):
    assert load_backbone(folder, dtype=dtype).dtype == expected


def test_the_fingerprint_is_that_of_the_weights_wherever_they_come_from(folder, tmp_path):
    copied = tmp_path / "copied"
    save(tiny_backbone(), copied)
    assert load_backbone(copied, dtype="float32").fingerprint == load_backbone(folder, dtype="float32").fingerprint


def test_one_changed_weight_or_token_changes_the_fingerprint(folder):
    original = tiny_backbone()
    change(folder, "model.layers.1.mlp.up_proj.weight", lambda weight: weight[3, 5].add_(1e-3))
    assert load_backbone(folder, dtype="float32").fingerprint != original.fingerprint
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["otter"])
    assert wrap_backbone(original.model, tokenizer, "tiny").fingerprint != original.fingerprint


def test_family_and_seed_each_have_their_own_fingerprint():
    backbones = [tiny_backbone("llama"), tiny_backbone("mistral"), tiny_backbone("llama", seed=1)]
    assert len({backbone.fingerprint for backbone in backbones}) == 3
    assert tiny_backbone("llama").fingerprint == backbones[0].fingerprint


def test_a_checkpoint_is_one_backbone_in_float32_and_bfloat16(folder):
    assert load_backbone(folder, dtype="float32").fingerprint == load_backbone(folder, dtype="bfloat16").fingerprint


@pytest.mark.parametrize(("normalizer", "same"), [(normalizers.Sequence([]), True), (normalizers.Lowercase(), False)])
def test_of_a_tokenizer_counts_what_it_does_and_not_how_it_is_written(normalizer, same):
    original, tokenizer = tiny_backbone(), byte_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    tokenizer.backend_tokenizer.normalizer = normalizer
    assert tokenizer.backend_tokenizer.to_str() != before
    assert (wrap_backbone(original.model, tokenizer, "tiny").fingerprint == original.fingerprint) is same


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, value):
    change(folder, "model.layers.0.self_attn.k_proj.weight", lambda weight: weight[0, 0].fill_(value))
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.k_proj") as caught:
        load_backbone(folder, dtype="float32")
    assert "intact" in caught.value.hint


def test_truncated_weights_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="could be loaded"):
        load_backbone(folder, dtype="float32")


@pytest.mark.parametrize("name", ["no/such/place", "/no/such/place", "no-such-model"])
def test_a_model_that_does_not_exist_is_refused_with_a_remedy(name):
    with pytest.raises(InputError, match=r"no-such-model|no/such/place") as caught:
        load_backbone(name)
    assert caught.value.hint == "Give a directory with a checkpoint or a hub id."
    assert caught.value.__cause__ is not None


def test_an_empty_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="could be loaded"):
        load_backbone(tmp_path)


def test_an_unknown_dtype_is_refused(folder):
    with pytest.raises(InputError, match="float8"):
        load_backbone(folder, dtype="float8")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(**SIZES, sliding_window=16), "sliding window of 16|sliding_attention"),
        (Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1), "sliding_attention"),
        (Gemma3TextConfig(**SIZES, head_dim=8), "sliding_attention"),
        (Qwen3NextConfig(**{**SIZES, "num_hidden_layers": 4}), "linear_attention"),
        (LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "dynamic"),
        (T5Config(d_model=32, num_layers=1, num_heads=2, d_ff=32, d_kv=8), "encoder-decoder"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_cannot_be_stored_is_refused_before_its_weights_are_read(tmp_path, config, reason):
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        load_backbone(tmp_path)
    assert "Choose a backbone" in caught.value.hint


def test_a_wrapped_model_is_looked_at_as_closely_as_a_loaded_one():
    with pytest.raises(UnsupportedModelError, match="sliding"):
        tiny_backbone("mistral", sliding_window=16)
    model = copy.deepcopy(tiny_backbone("llama").model)
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        wrap_backbone(model, byte_tokenizer(), "damaged")


def test_a_tokenizer_without_spans_is_refused():
    with pytest.raises(UnsupportedModelError, match="fast tokenizer, got ByT5Tokenizer"):
        wrap_backbone(tiny_backbone().model, ByT5Tokenizer(), "slow")


def test_tokens_text_and_spans_agree():
    backbone, text = tiny_backbone(), "Zoë's café"
    ids = backbone.encode(text)
    assert backbone.decode([256, *ids, 257]) == text
    spans = backbone.token_spans(text)
    assert len(spans) == len(ids)
    assert [text[start:end] for start, end in spans[:2]] == ["Z", "o"]
    assert spans[-1][1] == len(text)


@pytest.mark.parametrize(("eos", "stops"), [(257, {257}), ([257, 7, 9], {257, 7, 9})])
def test_every_end_a_model_names_stops_it(eos, stops):
    assert tiny_backbone(eos_token_id=eos).stop_ids == stops


def test_the_preset_without_its_wheel_and_without_a_network_names_the_remedy(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if "smollm2" in name else find(name, *rest)
    )
    with pytest.raises(MissingDependencyError, match="pip install"):
        load_backbone(revision="not-a-revision")  # so that a copy in the machine's cache does not count
