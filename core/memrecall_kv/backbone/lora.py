"""Low-rank deltas on a backbone's linear layers, on only while they are asked for.

Files are in PEFT's layout, so that an adapter trained here loads there and the other way round.
Source: LoRA, arXiv:2106.09685. Deviation: no dropout; the deltas are never merged into the backbone,
which serves compressor, gate and reasoner at once, but at most into copies of its layers.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memrecall_kv.errors import InputError

_PREFIX = "base_model.model."
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


class LoraAdapter:
    """Deltas `scale * B A x` by the name of the linear layer they belong to.

    Args:
        deltas: A `[rank, in]` and B `[out, rank]` by module name, as in `model.named_modules()`.
        alpha: Scale times rank.
    """

    def __init__(self, deltas: Mapping[str, tuple[Tensor, Tensor]], *, alpha: float) -> None:
        self.deltas = dict(deltas)
        self.alpha = float(alpha)

    @classmethod
    def create(
        cls, model: nn.Module, targets: tuple[str, ...], *, rank: int, alpha: float, seed: int = 0
    ) -> LoraAdapter:
        """Return an adapter that changes nothing yet: A random, B zero.

        Args:
            model: The backbone's model.
            targets: Last parts of the module names, for example `("q_proj", "v_proj")`.
            rank: Rank of the deltas.
            alpha: Scale times rank.
            seed: Seed of A; the global generator is left as it was.
        """
        generator = torch.Generator().manual_seed(seed)
        deltas = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets:
                first = torch.randn(rank, module.in_features, generator=generator) / rank**0.5
                deltas[name] = (first, torch.zeros(module.out_features, rank))
        if not deltas:
            raise InputError(f"Expected linear layers called {', '.join(targets)}, found none.", "Check the names.")
        return cls(deltas, alpha=alpha)

    @classmethod
    def from_directory(cls, path: Path) -> LoraAdapter:
        """Load `adapter_config.json` and `adapter_model.safetensors`.

        Raises:
            InputError: If a file is missing or does not hold pairs of A and B.
        """
        try:
            config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(path / _WEIGHTS)
            names = {key.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for key in tensors}
            deltas = {
                name: (tensors[f"{_PREFIX}{name}.lora_A.weight"], tensors[f"{_PREFIX}{name}.lora_B.weight"])
                for name in sorted(names)
            }
            return cls(deltas, alpha=float(config["lora_alpha"]))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise InputError(
                f"{path} holds no LoRA adapter: {error}", "Give a directory in PEFT's layout with LoRA weights."
            ) from error

    @classmethod
    def mean(cls, adapters: Sequence[LoraAdapter]) -> LoraAdapter:
        """Return the mean of the weights of adapters on one path of training, float32.

        Source: Model soups, arXiv:2203.05482. Deviation: A and B are averaged apart, which is near the mean of the
        deltas only where one adapter was trained on from the other.

        Raises:
            InputError: If there is none, or they do not change the same layers at the same rank and scale.
        """
        if not adapters:
            raise InputError("Expected adapters to average, got none.", "Name at least two.")
        first, shapes = adapters[0], [(adapter.alpha, _shapes(adapter)) for adapter in adapters]
        if any(shape != shapes[0] for shape in shapes):
            raise InputError(
                "Expected adapters of the same layers, rank and scale, got different ones.",
                "Average an adapter with one that was trained on from it.",
            )
        deltas = {}
        for name in first.deltas:
            firsts, seconds = zip(*(adapter.deltas[name] for adapter in adapters), strict=True)
            deltas[name] = (_mean(firsts), _mean(seconds))
        return cls(deltas, alpha=first.alpha)

    @property
    def rank(self) -> int:
        """Return the rank of the deltas."""
        return int(next(iter(self.deltas.values()))[0].shape[0])

    @property
    def digest(self) -> str:
        """Return a digest of the weights in bfloat16, so that it is the same wherever they are used."""
        digest = hashlib.sha256(str(self.alpha).encode())
        for name, pair in sorted(self.deltas.items()):
            digest.update(name.encode())
            for tensor in pair:
                digest.update(tensor.detach().bfloat16().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def save(self, path: Path, *, base_model: str) -> None:
        """Write the adapter in PEFT's layout."""
        path.mkdir(parents=True, exist_ok=True)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted({name.rsplit(".", 1)[-1] for name in self.deltas}),
        }
        (path / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {}
        for name, (first, second) in self.deltas.items():
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = first.detach().contiguous().clone()
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = second.detach().contiguous().clone()
        save_file(tensors, path / _WEIGHTS, metadata={"format": "pt"})

    def to(self, device: torch.device, dtype: torch.dtype) -> LoraAdapter:
        """Return the adapter on a device in a dtype."""
        moved = {name: (a.to(device, dtype), b.to(device, dtype)) for name, (a, b) in self.deltas.items()}
        return LoraAdapter(moved, alpha=self.alpha)

    def half(self) -> LoraAdapter:
        """Return the adapter in bfloat16, detached: how it is shipped."""
        return LoraAdapter(
            {name: (a.detach().bfloat16(), b.detach().bfloat16()) for name, (a, b) in self.deltas.items()},
            alpha=self.alpha,
        )

    def single(self) -> LoraAdapter:
        """Return a float32 copy, for training."""
        return LoraAdapter(
            {name: (a.detach().float().clone(), b.detach().float().clone()) for name, (a, b) in self.deltas.items()},
            alpha=self.alpha,
        )

    def reduced(self, rank: int) -> LoraAdapter:
        """Return the best approximation of lower rank, float32: the largest singular values of each delta."""
        deltas = {}
        for name, (first, second) in self.deltas.items():
            left, sizes, right = torch.linalg.svd(second.float() @ first.float(), full_matrices=False)
            root = sizes[:rank].sqrt()
            deltas[name] = ((root[:, None] * right[:rank]).contiguous(), (left[:, :rank] * root).contiguous())
        return LoraAdapter(deltas, alpha=self.alpha / self.rank * rank)

    def below(self, last: int) -> LoraAdapter:
        """Return the part for the backbone's layers below `last`."""
        kept = {name: pair for name, pair in self.deltas.items() if _layer_of(name) < last}
        return LoraAdapter(kept, alpha=self.alpha)

    def merged(self, model: nn.Module, module: nn.Module) -> nn.Module:
        """Return a copy of one of the model's modules whose weights hold the deltas."""
        (prefix,) = (name for name, found in model.named_modules() if found is module)
        made = copy.deepcopy(module)
        with torch.no_grad():
            for name, part in made.named_modules(prefix=prefix):
                if name in self.deltas:
                    first, second = (delta.float() for delta in self.deltas[name])
                    part.weight += (self.alpha / self.rank * (second @ first)).to(part.weight)
        return made

    @contextmanager
    def active(self, model: nn.Module) -> Iterator[None]:
        """Add the deltas to every forward of `model` inside the `with` block.

        Raises:
            InputError: If the model has no layer of a delta's name.
        """
        scale = self.alpha / self.rank
        modules = dict(model.named_modules())
        missing = sorted(set(self.deltas) - set(modules))
        if missing:
            raise InputError(
                f"The adapter changes {missing[0]}, which the backbone does not have.",
                "Load it with the backbone it was trained for.",
            )
        handles = [
            modules[name].register_forward_hook(_Delta(first, second, scale))
            for name, (first, second) in self.deltas.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _layer_of(name: str) -> int:
    """Return the number of the layer that a module belongs to; 0 if it belongs to none."""
    _, _, rest = name.partition("layers.")
    return int(rest.partition(".")[0]) if rest else 0


def _shapes(adapter: LoraAdapter) -> dict[str, tuple[torch.Size, torch.Size]]:
    return {name: (first.shape, second.shape) for name, (first, second) in adapter.deltas.items()}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.detach().float() for tensor in tensors]).mean(dim=0)


class _Delta:
    """The forward hook of one layer."""

    def __init__(self, first: Tensor, second: Tensor, scale: float) -> None:
        self._first, self._second, self._scale = first, second, scale

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # contiguous 2-D: a sliced 3-D linear falls into batched products with copies
        flat = args[0].reshape(-1, args[0].shape[-1]).to(self._first.dtype)
        delta = flat @ self._first.T @ self._second.T
        changed: Tensor = output + self._scale * delta.view(*output.shape).to(output.dtype)
        return changed
