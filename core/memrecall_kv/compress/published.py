"""The published compressor, layout `reference`: windows of raw tokens with memory tokens between them.

Source: LycheeMemory, arXiv:2602.08382, released code. The numbers are the reference's; deviations:

1. Padding is cut, not masked: a window holds its real tokens and one memory token after the last,
   possibly incomplete, group. Memory tokens of padding are not made, and what follows a block still
   starts after the slots they would have taken (`MemoryBlock.extent`).
2. A chunk size that is no whole number of windows is rounded up to whole windows; the reference leaves
   it undefined.
3. Memory projections are computed for memory tokens only, not for all tokens and then selected.
4. Texts of a batch are padded on the right, so that none depends on its neighbours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import KVState
from memrecall_kv.compress.compressor import BATCH_TOKENS, encode_chunks
from memrecall_kv.config import CompressorConfig
from memrecall_kv.errors import InputError, UnsupportedModelError
from memrecall_kv.types import Chunk, MemoryBlock

_MARK = "lychee_memory_"
_EMBEDDING = f"model.{_MARK}embed_tokens.weight"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_PUBLISHED = {"pos": "interleave", "attn": "full-coverage", "attend_prev": True, "parallel_window": 1, "sink_size": 0}
"""The variant of the method that is implemented here; window and ratio are free."""
_MEMORY_ID = -1


@dataclass(frozen=True, eq=False)
class ReferenceWeights:
    """What a published checkpoint has beyond its backbone: embedding and q, k, v projections of memory tokens.

    Attributes:
        tensors: By official name; the embedding is `[1, hidden]`, the rest as in the backbone.
    """

    tensors: Mapping[str, Tensor]

    @classmethod
    def from_directory(cls, path: Path) -> ReferenceWeights:
        """Read the memory parameters out of a checkpoint, in one file or several, and nothing else of it.

        Raises:
            InputError: If a file is missing or unreadable, or there are no memory parameters.
        """
        index = path / "model.safetensors.index.json"
        files, tensors = {"model.safetensors"}, {}
        try:
            if index.is_file():
                places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                files = {file for name, file in places.items() if _MARK in name}
            for file in sorted(files):
                with safe_open(path / file, framework="pt") as handle:
                    tensors.update({name: handle.get_tensor(name) for name in handle.keys() if _MARK in name})  # noqa: SIM118  # no dict
            if not tensors:
                raise KeyError(f"{_MARK}*")
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise InputError(
                f"{path}: expected a checkpoint with parameters called {_MARK}*, got {error!r}.",
                "Give a LycheeMemory checkpoint, or start from ReferenceWeights.from_backbone.",
            ) from error
        return cls(tensors)

    @classmethod
    def from_backbone(cls, backbone: Backbone) -> ReferenceWeights:
        """Return what the reference starts with: the backbone's own projections and its eos embedding."""
        model: Any = backbone.model
        stop = model.config.eos_token_id
        row = stop[0] if isinstance(stop, list) else backbone.sink_id if stop is None else stop
        tensors = {_EMBEDDING: model.get_input_embeddings().weight[row][None].detach().clone()}
        tensors |= {name: value.detach().clone() for name, value in _parameters(model).items()}
        return cls(tensors)

    @cached_property
    def digest(self) -> str:
        """Return a digest of the weights in bfloat16, so that it is the same wherever they are used."""
        digest = xxhash.xxh3_128()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().bfloat16().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write `model.safetensors`; `from_directory` reads it back."""
        path.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    def to(self, device: torch.device, dtype: torch.dtype) -> ReferenceWeights:
        """Return the weights on a device in a dtype."""
        return ReferenceWeights({name: tensor.to(device, dtype) for name, tensor in self.tensors.items()})

    def embed(self, memory: Tensor, raw: Tensor) -> Tensor:
        """Return input embeddings: the learned one where `memory` `[B, T]` is True, else `raw` `[B, T, hidden]`."""
        return torch.where(memory[..., None], self.tensors[_EMBEDDING][0], raw)

    def check(self, model: Any) -> None:
        """Compare names and shapes with the backbone's, and look for NaN.

        Raises:
            InputError: If a parameter is missing, unknown, of another shape, NaN or infinite.
            UnsupportedModelError: If the backbone has no separate projections.
        """
        embeddings = model.get_input_embeddings()
        expected: dict[str, Any] = {name: tuple(value.shape) for name, value in _parameters(model).items()}
        if not expected:
            raise UnsupportedModelError(
                f"Expected layers called {', '.join(_PROJECTIONS)}, found none in {type(model).__name__}.",
                "Choose a backbone that projects q, k and v separately, such as Qwen2.5.",
            )
        expected[_EMBEDDING] = (1, embeddings.embedding_dim)
        got = {
            name: tuple(tensor.shape) if bool(torch.isfinite(tensor).all()) else "NaN or infinity"
            for name, tensor in self.tensors.items()
        }
        wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
        if wrong:
            raise InputError(
                f"{wrong[0]}: expected shape {expected.get(wrong[0])}, got {got.get(wrong[0])}.",
                "Load intact memory parameters with the backbone they were trained for.",
            )

    @contextmanager
    def active(self, model: nn.Module, memory: Tensor) -> Iterator[None]:
        """Project memory tokens with these weights in every forward of `model` inside the `with` block.

        Args:
            model: The backbone's model.
            memory: True at memory tokens. `[B, T]` bool.
        """
        index = memory.nonzero(as_tuple=True)
        handles = []
        try:
            for name, layer in _replaced(model).items():
                weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
                handles.append(layer.register_forward_hook(_replacement(weight, bias, index)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _replacement(weight: Tensor, bias: Tensor | None, index: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """Return the forward hook of one projection."""

    def project(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_put(index, nn.functional.linear(args[0][index], weight, bias))

    return project


class ReferenceCompressor:
    """Compresses chunks as the published checkpoints do.

    Args:
        backbone: The model.
        weights: What it uses at memory tokens.
        config: Ratio and window.
        chunk_tokens: Chunk size the checkpoint is used with. A shorter chunk is one padded to it: text
            read after its block starts `chunk_tokens / compression_ratio` positions later, as in the
            reference. A chunk's own length if `None`; rounded up to whole windows either way.

    Raises:
        InputError: If the weights do not fit the backbone.
    """

    unrotated = True

    def __init__(
        self,
        backbone: Backbone,
        weights: ReferenceWeights,
        config: CompressorConfig,
        *,
        chunk_tokens: int | None = None,
    ) -> None:
        weights.check(backbone.model)
        self._backbone = backbone
        self._chunk_tokens = chunk_tokens or 0
        self.weights = weights.to(backbone.device, backbone.dtype)
        self.config = config

    @property
    def digest(self) -> str:
        """Name the weights, and what changes a block or its extent."""
        return f"reference:{self.config.window}:{self._slots(0)}:{self.weights.digest}"

    def compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return one block of `ceil(T / compression_ratio)` memory tokens per chunk, in order.

        Raises:
            ContextOverflowError: If a window and the memory before it are longer than the backbone's.
            InputError: If a chunk has no tokens.
        """
        rows = encode_chunks(self._backbone, chunks)
        step = max(1, BATCH_TOKENS // self.config.window)
        with torch.inference_mode():
            batches = [self.compress_ids(rows[start : start + step]) for start in range(0, len(rows), step)]
        return [block for batch in batches for block in batch]

    def compress_ids(self, rows: Sequence[Sequence[int]]) -> list[MemoryBlock]:
        """Return one block per row of token ids; all rows go through one forward per window.

        Args:
            rows: Token ids of B chunks, none empty.
        """
        window = self.config.window
        memory: dict[int, MemoryBlock] = {}
        for start in range(0, max(len(row) for row in rows), window):
            # only a row's last window can be short, so that all that go on have equally much memory
            alive = [index for index, row in enumerate(rows) if len(row) > start]
            state = self._resume([memory[index] for index in alive]) if start else self._backbone.kv.start(len(alive))
            made = self._read(state, [rows[index][start : start + window] for index in alive])
            for index, (keys, values) in zip(alive, made, strict=True):
                if start:
                    keys = torch.cat([memory[index].keys, keys], dim=2)  # [L, K, earlier + new, D]
                    values = torch.cat([memory[index].values, values], dim=2)
                positions = torch.arange(keys.shape[2], dtype=torch.int32)[None, None]
                size = len(rows[index])
                memory[index] = MemoryBlock(keys, values, positions, self._slots(size), num_source_tokens=size)
        return [memory[index] for index in range(len(rows))]

    def _resume(self, earlier: Sequence[MemoryBlock]) -> KVState:
        """Return a state that starts with the memory of earlier windows, numbered densely from 0."""
        size = earlier[0].num_memory_tokens
        keys = torch.stack([block.keys for block in earlier], dim=1)  # [L, B, K, size, D]
        keys = self._backbone.kv.rotate(keys, torch.arange(size)[None, None, None])
        # rotated here and placed as they are: placing with rotation would put a sink before them
        rows = [[replace(block, keys=keys[:, row], extent=size)] for row, block in enumerate(earlier)]
        return self._backbone.kv.place(rows, unrotated=True)

    def _read(self, state: KVState, pieces: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor]]:
        """Read a window per row and return the memory it makes: keys, un-rotated, and values `[L, K, m, D]`."""
        backbone = self._backbone
        offset = state.mask.shape[1]
        ids, lengths = backbone.kv.pad(
            [interleave(piece, self.config.compression_ratio, _MEMORY_ID) for piece in pieces]
        )
        memory = ids == _MEMORY_ID  # [B, T]
        embeds = self.weights.embed(memory, backbone.kv.embed(ids.masked_fill(memory, 0)))
        with self.weights.active(backbone.model, memory):
            backbone.kv.forward(state, embeds=embeds, lengths=lengths)
        columns = memory.any(dim=0).nonzero().squeeze(1)  # rows differ in their last group only
        keys, values = backbone.kv.take(state, columns + offset, (columns + offset)[None])
        own = memory[:, columns]
        return [(keys[:, row, :, own[row]], values[:, row, :, own[row]]) for row in range(len(pieces))]

    def _slots(self, length: int) -> int:
        """Return the physical memory slots of a chunk, masked ones included."""
        window = self.config.window
        return math.ceil(max(length, self._chunk_tokens) / window) * window // self.config.compression_ratio


def interleave(ids: Sequence[int], ratio: int, memory_id: int) -> list[int]:
    """Return token ids with a memory token after every group of `ratio`, the last incomplete one included."""
    mixed: list[int] = []
    for start in range(0, len(ids), ratio):
        mixed += [*ids[start : start + ratio], memory_id]
    return mixed


def is_official_directory(path: str | Path) -> bool:
    """Return whether a directory holds a published LycheeMemory checkpoint: its config has the fields."""
    return bool(_fields(Path(path)))


def official_config(path: str | Path) -> CompressorConfig:
    """Return the compressor settings of a published checkpoint.

    Raises:
        InputError: If it has none, or was made with a variant of the method that is not implemented.
    """
    fields = _fields(Path(path))
    window, ratios = fields.get("window"), fields.get("ratio")
    ratio = ratios[0] if isinstance(ratios, list) and ratios else None
    expected = {**_PUBLISHED, "param": ["q", "k", "v"], "stride": window, "ratio": [ratio]}
    wrong = {name: value for name, value in fields.items() if expected.get(name, value) != value}
    if wrong or not isinstance(window, int) or not isinstance(ratio, int):
        raise InputError(
            f"{path}: expected interleaved memory tokens of one ratio and one window, got {wrong or fields}.",
            "Give a checkpoint like the published ones, or settings of your own.",
        )
    return CompressorConfig(kind="memory_tokens", layout="reference", compression_ratio=ratio, window=window)


def _fields(path: Path) -> dict[str, Any]:
    """Return what a checkpoint's config says about memory; nothing if it is another's."""
    try:
        config = dict(json.loads((path / "config.json").read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return {}
    return {name.removeprefix(_MARK): value for name, value in config.items() if name.startswith(_MARK)}


def _replaced(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers that memory tokens do not share with raw ones, by the name of what they use instead."""
    layers = {}
    for name, layer in model.named_modules():
        parent, _, projection = name.rpartition(".")
        if isinstance(layer, nn.Linear) and projection in _PROJECTIONS:
            layers[f"{parent}.{_MARK}{projection}"] = layer
    return layers


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the backbone's parameters that memory parameters stand in for, by the latter's name."""
    return {
        f"{name}.{kind}": value for name, layer in _replaced(model).items() for kind, value in layer.named_parameters()
    }
