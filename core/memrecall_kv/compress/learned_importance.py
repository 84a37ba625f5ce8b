"""A small network that predicts, from a token's keys and values, how much a model would look at it.

It is trained on the scores of `importance.reconstruction` and saves their second forward: one layer's keys and values
of all heads go in, one score per head comes out.

Source: a learned surrogate for KVzip (arXiv:2505.23416) in the manner of its follow-ups; written from the idea alone.
Deviation: it reads un-rotated keys and values, which a block is made of anyway, not hidden states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import Prefill
from memrecall_kv.errors import InputError

_FILE = "importance_scorer.safetensors"


class ImportanceScorer:
    """Two layers per backbone layer.

    Args:
        tensors: `scale` `[L, F]` by which features are multiplied, `first` `[L, F, N]` and `first_bias` `[L, 1, N]`,
            `second` `[L, N, K]` and `second_bias` `[L, 1, K]`, where F is 2 K D and N the width inside.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    @classmethod
    def create(cls, prefill: Prefill, *, width: int, seed: int = 0) -> ImportanceScorer:
        """Return an untrained scorer whose features have the scale of some text's.

        Args:
            prefill: A text that was read; any will do.
            width: N.
            seed: Of the first layer; the global generator is left as it was.
        """
        features = _features(prefill)
        num_layers, _, size = features.shape
        generator = torch.Generator().manual_seed(seed)
        num_heads = prefill.keys.shape[2]
        return cls(
            {
                "scale": 1 / features.std(dim=1).clamp_min(1e-3),
                "first": torch.randn(num_layers, size, width, generator=generator) / size**0.5,
                "first_bias": torch.zeros(num_layers, 1, width),
                "second": torch.zeros(num_layers, width, num_heads),
                "second_bias": torch.full((num_layers, 1, num_heads), -4.0),
            }
        )

    @classmethod
    def from_directory(cls, path: Path) -> ImportanceScorer:
        """Load what `save` wrote.

        Raises:
            InputError: If the file is missing or unreadable.
        """
        try:
            return cls({name: tensor.float() for name, tensor in load_file(path / _FILE).items()})
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} holds no importance scorer: {error}", "Give a directory written by save_pretrained."
            ) from error

    def within(self, first: int, last: int) -> ImportanceScorer:
        """Return the part for the layers `[first, last)`."""
        return ImportanceScorer({name: tensor[first:last] for name, tensor in self.tensors.items()})

    def save(self, path: Path) -> None:
        """Write the weights, in bfloat16."""
        path.mkdir(parents=True, exist_ok=True)
        halved = {name: tensor.detach().bfloat16().contiguous().cpu() for name, tensor in self.tensors.items()}
        save_file(halved, path / _FILE)

    @property
    def digest(self) -> str:
        """Return a digest of the weights as they are saved."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode() + tensor.detach().bfloat16().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def predict(self, prefill: Prefill) -> Tensor:
        """Return the logarithm of the attention each token is expected to get, `[L, B, K, T]`; gradient flows."""
        num_layers, batch, num_heads, size, _ = prefill.keys.shape
        # a layer at a time on a CPU, for the reason `Backbone.rotate` gives
        step = 1 if prefill.keys.device.type == "cpu" else num_layers
        split = {name: torch.split(tensor.to(prefill.keys.device), step) for name, tensor in self.tensors.items()}
        scores = []
        for place, (keys, values) in enumerate(
            zip(torch.split(prefill.keys, step), torch.split(prefill.values, step), strict=True)
        ):
            own = {name: parts[place] for name, parts in split.items()}
            features = _features(Prefill(keys, values, prefill.hidden)) * own["scale"][:, None]
            inside = torch.nn.functional.gelu(torch.baddbmm(own["first_bias"], features, own["first"]))
            scores.append(torch.baddbmm(own["second_bias"], inside, own["second"]))
        return torch.cat(scores).view(num_layers, batch, size, num_heads).transpose(2, 3)

    def __call__(self, backbone: Backbone, prefill: Prefill, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return importance as `importance.Score` has it."""
        return self.predict(prefill).round(decimals=2)


def _features(prefill: Prefill) -> Tensor:
    """Return keys and values of all heads side by side, `[L, B*T, 2*K*D]` float32."""
    both = torch.cat([prefill.keys, prefill.values], dim=-1)  # [L, B, K, T, 2D]
    return both.transpose(2, 3).flatten(3).flatten(1, 2).float()
