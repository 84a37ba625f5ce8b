"""How much each token matters, before any question is known.

Deviations from the papers:

1. Keys are scored before rotary embedding, as blocks hold them; the papers score rotated keys.
2. There is no protected window of recent tokens: a chunk has no "end" that is nearer to the question.
3. The first token that is read is a sink outside the block, so it needs no protection either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import Prefill, whole_blocks

_REPEAT = "\n\nRepeat the previous context:\n"
"""What stands between a text and its repetition."""

Score = Callable[[Backbone, Prefill, Sequence[Sequence[int]]], Tensor]
"""Returns importance, higher is kept: `[L, B, K, T]`, or `[1, B, 1, T]` where layers and heads agree."""


def key_norm(backbone: Backbone, prefill: Prefill, rows: Sequence[Sequence[int]]) -> Tensor:
    """Score a token by minus the norm of its key: short keys draw much attention.

    Source:
        A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, arXiv:2406.11430.
    """
    norms: Tensor = prefill.keys.float().norm(dim=-1)
    return -norms


def key_diff(backbone: Backbone, prefill: Prefill, rows: Sequence[Sequence[int]]) -> Tensor:
    """Score a token by how little its key resembles the average key of its head.

    Source:
        KeyDiff: Key Similarity-Based KV Cache Eviction, arXiv:2504.15364.
    """
    keys = prefill.keys.float()
    lengths = torch.tensor([len(row) for row in rows], device=keys.device)
    real = torch.arange(keys.shape[3], device=keys.device) < lengths[:, None]  # [B, T]
    weights = real[None, :, None, :, None].float()
    anchor = (normalize(keys, dim=-1) * weights).sum(dim=3, keepdim=True)  # [L, B, K, 1, D]
    return -cosine_similarity(keys, anchor, dim=-1)


def surprisal(backbone: Backbone, prefill: Prefill, rows: Sequence[Sequence[int]]) -> Tensor:
    """Score a token by minus its log-probability given what stands before it.

    Source:
        Compressing Context to Enhance Inference Efficiency of Large Language Models
        (Selective Context), arXiv:2310.06201. Deviation: per token, not per phrase.
    """
    ids, _ = backbone.kv.pad(rows, prefill.hidden.shape[1])
    logits = backbone.kv.logits(prefill.hidden[:, :-1], precise=False)
    chosen = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(dim=-1)
    # the first token has nothing before it: it is as surprising as the most surprising one
    scores = (
        torch.cat([(-chosen).amax(dim=1, keepdim=True), -chosen], dim=1)
        if chosen.shape[1]
        else chosen.new_zeros(ids.shape)
    )
    return scores[None, :, None]


def reconstruction(backbone: Backbone, prefill: Prefill, rows: Sequence[Sequence[int]]) -> Tensor:
    """Score a token by the logarithm of the most attention it gets while the text is repeated after itself.

    What a model looks at to repeat a text is what it would look at to answer any question about it; the scores
    of all heads and layers compare, so that some heads may keep much and others little. Costs a second forward.

    Source:
        KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction, arXiv:2505.23416.
        Deviation: a chunk is short enough to be repeated whole.
    """
    width = max(map(len, rows))
    lead = backbone.encode(_REPEAT)
    ids, lengths = backbone.kv.pad([[*lead, *row] for row in rows])
    received = backbone.kv.attention_received(
        backbone.kv.place([[block] for block in whole_blocks(prefill, rows)]), ids, lengths, slice(1, 1 + width)
    )
    # two digits of the logarithm: what differs by less than a percent is left to the order
    return received.clamp_min(1e-9).log().round(decimals=2)


SCORES: dict[str, Score] = {
    "key_norm": key_norm,
    "key_diff": key_diff,
    "surprisal": surprisal,
    "reconstruction": reconstruction,
}
"""By the names of `CompressorConfig.importance`."""
