"""What makes a checkpoint the same one, wherever it was loaded from."""

from __future__ import annotations

import json
from typing import Any

import torch
import xxhash
from transformers import PreTrainedModel

from memrecall_kv.errors import InputError

_PROBE = " In 1987, it's  THE\tend:\r\n\nfi\u00e9 fie\u0301 \ufb01 \u5927\u962a \U0001f9e0 x+=10**3; <|im_start|>user"
"""Text that tokenizers split in different ways: digits, case, white space, composed letters, scripts, special ones."""


def fingerprint(model: PreTrainedModel, tokenizer: Any) -> str:
    """Return architecture and a digest of weights and tokenizer.

    A fast hash, since it guards against mistakes and not against attacks.

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
