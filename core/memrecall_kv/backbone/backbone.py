"""A loaded model with its tokenizer, which compressor, gate and reasoner share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from memrecall_kv.backbone.kv import KVAccess
from memrecall_kv.backbone.scheduler import Scheduler

_REQUEST = "\ue000request\ue000"
"""Stands for a request in a template; of characters that no text means anything by."""


@dataclass(eq=False)
class Backbone:
    """A loaded model with its tokenizer.

    Whoever changes the weights wraps the model anew: the fingerprint, and what `kv` keeps, are those of now.

    Attributes:
        name: The name, hub id or directory it was loaded from.
        fingerprint: Architecture and a digest of weights and tokenizer; the same for the same model
            wherever it was loaded from, in float32 or bfloat16, and however its tokenizer is written down.
        model: The causal LM in evaluation mode, without gradients.
        tokenizer: Its fast tokenizer.
        scheduler: Runs the model for whoever asks; adapters may call from several threads.
        kv: Keys and values in and out of it.

    Raises:
        UnsupportedModelError: If its keys cannot be moved to another position.
    """

    name: str
    fingerprint: str
    model: PreTrainedModel
    tokenizer: Any
    scheduler: Scheduler = field(default_factory=Scheduler, repr=False)
    kv: KVAccess = field(init=False, repr=False)
    _encoding: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        # at once, and not when first asked for: some adapter may be on then, and its numbers would be kept
        self.kv = KVAccess(self.model, name=self.name, sink_id=self.sink_id, window=self.window)

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
        """Return the token that stands first in every state."""
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
        """Return the token ids of a text, whoever wrote it: `<|im_start|>` in it is words, and begins no turn."""
        return list(self._tokens(text, are_tokens_parsed=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Return the span of characters `[start, end)` of every token."""
        encoded = self._tokens(text, are_tokens_parsed=False)
        return [(int(start), int(end)) for start, end in encoded["offset_mapping"]]

    def chat(self, request: str) -> list[int]:
        """Return the ids of one user turn and the start of the reply; plain text if there is no chat template.

        Special tokens are those of the template, never those that stand in the request.
        """
        if not self.tokenizer.chat_template:
            return self.encode(f"{request}\nAnswer:")
        if self.encode(request) == self._parsed(request):
            return self._parsed(self._turn(request))
        first, *rest = self._turn(_REQUEST).split(_REQUEST)
        ids = self._parsed(first)
        for part in rest:
            ids += [*self.encode(request), *self._parsed(part)]
        return ids

    def _turn(self, request: str) -> str:
        turn = [{"role": "user", "content": request}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))

    def _parsed(self, text: str) -> list[int]:
        """Return the token ids of a template, its special tokens among them."""
        return list(self._tokens(text, are_tokens_parsed=True)["input_ids"])

    def _tokens(self, text: str, *, are_tokens_parsed: bool) -> Any:
        # transformers keeps the choice in the tokenizer, which all threads share
        with self._encoding:
            return self.tokenizer(
                text,
                add_special_tokens=False,
                split_special_tokens=not are_tokens_parsed,
                return_offsets_mapping=True,
                verbose=False,
            )
