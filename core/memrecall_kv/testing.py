"""Public fakes: tiny backbones built in process, and a gate and a reasoner that follow a script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from memrecall_kv import assemble
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.loading import wrap_backbone
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.gate import Gate
from memrecall_kv.recall.reasoner import Reasoner, Tally
from memrecall_kv.types import Chunk, MemoryBlock, Note, Recall, WorkingMemory

Family = Literal["llama", "qwen2", "qwen3", "mistral"]
_FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte of UTF-8, and ids 256 to 258 for start, end and padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<pad>"]
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, *special])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers does not annotate it
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=100_000
    )


def tiny_backbone(
    family: Family = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    window: int = 4096,
    **overrides: Any,
) -> Backbone:
    """Return a random backbone of 2 layers, 4 query heads and 2 KV heads over bytes.

    Args:
        family: Architecture.
        seed: Seed of the weights; the global generator is left as it was.
        dtype: Of weights and activations.
        attention: `sdpa` or `eager`.
        window: Positions.
        overrides: Further fields of the architecture's config.
    """
    tokenizer = byte_tokenizer()
    config_class, model_class, extra = _FAMILIES[family]
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": window,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
        "initializer_range": 0.2,  # wide enough for attention that is far from uniform
    }
    config = config_class(**{**sizes, **extra, **overrides})
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).to(dtype)
    return wrap_backbone(model, tokenizer, f"tiny-{family}-{seed}")


class ScriptedGate:
    """A gate that looks probabilities up by what the notes and a block hold.

    Args:
        script: Called with the question, the text of the notes and the block; returns the probability.
    """

    def __init__(self, script: Callable[[str, str, MemoryBlock], float]) -> None:
        self._script = script

    def score(self, question: str, notes: WorkingMemory, blocks: Sequence[MemoryBlock]) -> list[float]:
        """Return the scripted probability of each block."""
        return [self._script(question, notes.text, block) for block in blocks]


class ScriptedReasoner:
    """A reasoner that takes notes and answers from a script, without a model.

    Args:
        notes: Note by text of the chunk; chunks that are not in it add nothing.
        reply: Called with the question and the text of the notes; returns the answer.
    """

    def __init__(self, notes: Mapping[str, str], reply: Callable[[str, str], str]) -> None:
        self._notes = dict(notes)
        self._reply = reply

    def update(
        self, question: str, notes: WorkingMemory, chunk: Chunk, block: MemoryBlock, tally: Tally
    ) -> WorkingMemory:
        """Add the scripted note of a chunk."""
        tally.memory_tokens += block.num_memory_tokens
        if chunk.text not in self._notes:
            return notes
        return WorkingMemory((*notes.notes, Note(self._notes[chunk.text], chunk.id)))

    def answer(
        self,
        question: str,
        notes: WorkingMemory,
        evidence: Sequence[Recall],
        blocks: Sequence[MemoryBlock],
        tally: Tally,
        among: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the scripted answer word by word; the first of some, if there are any."""
        for piece in re.findall(r"\S+\s*", among[0] if among else self._reply(question, notes.text)):
            tally.generated_tokens += 1
            yield piece


def tiny_memory(
    config: MemRecallConfig | None = None,
    *,
    gate: Gate | None = None,
    reasoner: Reasoner | None = None,
    backbone: Backbone | None = None,
) -> MemRecall:
    """Return a whole pipeline on a tiny random backbone: no network, no files, under a second.

    Args:
        config: Settings; chunks of 64 bytes, short texts and a threshold that lets every block count if left out.
        gate: Instead of the gate the settings ask for.
        reasoner: Instead of the backbone.
        backbone: Instead of `tiny_backbone()`.
    """
    config = config or MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        gate=GateConfig(threshold=0.0),
        reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=8),
    )
    parts = assemble.build(backbone or tiny_backbone(), config, None)
    return MemRecall(replace(parts, gate=gate or parts.gate, reasoner=reasoner or parts.reasoner))
