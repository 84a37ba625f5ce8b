"""What a backbone is without its weights: sizes and tokenizer, enough to plan with."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

_TIMED_TOKENS = 512
_TIMED_ROUNDS = 8


class Outline:
    """A backbone's sizes and tokenizer.

    Args:
        name: Directory, hub id or preset.
        config: Of transformers.
        tokenizer: Of transformers.
    """

    def __init__(self, name: str, config: Any, tokenizer: Any) -> None:
        self.name = name
        self.config = config
        self._tokenizer = tokenizer
        with torch.device("meta"):  # takes no memory
            self._model = _built(config)

    @property
    def end_id(self) -> int:
        """Return the token that a trained reader ends a reply with."""
        return int(self._tokenizer.eos_token_id or 0)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, as a backbone does."""
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return list(self._tokenizer(text, **options)["input_ids"])

    @cached_property
    def parameters(self) -> int:
        """Return how many weights there are, shared ones counted once."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @cached_property
    def layer_parameters(self) -> int:
        """Return how many weights every token is multiplied with; embedding and head are left out."""
        return sum(module.weight.numel() for _, module in self._linears())

    @property
    def layers(self) -> int:
        """Return the number of layers."""
        return int(self.config.num_hidden_layers)

    @property
    def block_numbers(self) -> int:
        """Return the keys and values of a token in all layers."""
        heads = self.config.num_key_value_heads
        dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        return int(2 * self.layers * heads * dim)

    def adapter_parameters(self, targets: Sequence[str], rank: int, *, below: int | None = None) -> int:
        """Return the weights of low-rank deltas on the layers, or on those below a number."""
        shapes = [
            (module.in_features, module.out_features)
            for name, module in self._linears()
            if name.rsplit(".", 1)[-1] in targets and (below is None or int(name.split(".")[0]) < below)
        ]
        return rank * sum(sum(shape) for shape in shapes)

    def measured_rate(self, device: torch.device, dtype: torch.dtype) -> float:
        """Return operations a second of one layer with random weights, forward and back over 512 tokens.

        The gradient reaches the input and no weight, as where low-rank deltas are trained. The fastest of eight.
        """
        config = copy.deepcopy(self.config)
        config.num_hidden_layers, config.vocab_size, config.pad_token_id = 1, 8, None
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:1]
        base = _built(config).base_model.to(device=device, dtype=dtype).requires_grad_(requires_grad=False)
        given = torch.randn(1, _TIMED_TOKENS, config.hidden_size, device=device, dtype=dtype, requires_grad=True)
        seconds = []
        for _ in range(_TIMED_ROUNDS + 1):
            started = time.perf_counter()
            base(inputs_embeds=given, use_cache=False).last_hidden_state.float().sum().backward()
            given.detach()[0, 0, 0].item()  # waits for an accelerator
            seconds.append(time.perf_counter() - started)
        return 4 * _TIMED_TOKENS * self.layer_parameters / self.layers / min(seconds[1:])

    def _linears(self) -> list[tuple[str, nn.Linear]]:
        """Return the linear modules of the layers by their names below them, as `3.mlp.up_proj`."""
        layers = self._model.base_model.layers
        return [(name, module) for name, module in layers.named_modules() if isinstance(module, nn.Linear)]


def _built(config: Any) -> Any:
    auto: Any = AutoModelForCausalLM  # not annotated
    return auto.from_config(config)
