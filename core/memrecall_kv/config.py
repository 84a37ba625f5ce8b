"""All settings: every default once, every range check once.

A setting that cannot be right raises `ConfigError` when the object is built, not when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memrecall_kv.errors import ConfigError, InputError

FORMAT_VERSION: Literal[1] = 1
"""Version of the saved configuration and of the fingerprint."""


def home_directory() -> Path:
    """Return where prepared models and demo banks are kept: `MEMRECALL_KV_HOME`, or a folder of the user's cache."""
    return Path(os.environ.get("MEMRECALL_KV_HOME") or Path.home() / ".cache" / "memrecall-kv")


def default_directory() -> Path:
    """Return the trained pipeline that comes with the package, as `save_pretrained` writes one."""
    return Path(__file__).parent / "default"


class Config(BaseModel):
    """Base of all settings: frozen, keyword-only, refusing unknown keys.

    Raises:
        ConfigError: If a value is out of range, a key is unknown, or two settings contradict.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            rules = "; ".join(
                f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}, got {item['input']!r}"
                for item in error.errors()
            )
            known = ", ".join(type(self).model_fields)
            raise ConfigError(f"{type(self).__name__} refused: {rules}.", f"Known settings: {known}.") from error


class ChunkingConfig(Config):
    """How documents are cut.

    Attributes:
        chunk_tokens: Most tokens of a chunk. The paper uses 4096 with a 7B model; a small model keeps
            more of a short chunk.
        overlap_tokens: Tokens repeated from the end of the chunk before; 0 tiles the text.
    """

    chunk_tokens: int = Field(default=256, ge=8, le=32768)
    overlap_tokens: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _overlap_is_shorter(self) -> ChunkingConfig:
        if self.overlap_tokens >= self.chunk_tokens:
            raise ValueError(f"overlap_tokens must be below chunk_tokens ({self.chunk_tokens})")
        return self


class CompressorConfig(Config):
    """How a chunk becomes a block.

    Attributes:
        kind: `select` keeps the most important tokens, `stride` every r-th token, `pool` the mean of
            every r tokens, `hybrid` half selected and half pooled, `memory_tokens` is the learned one.
        compression_ratio: Source tokens per memory token, r = T/M. (kvpress counts the share removed.)
        importance: Score behind `select` and `hybrid`; see `compress/importance.py` for the papers. `learned` loads
            weights that predict `reconstruction`.
        budget: `uniform`: every head keeps the same number; `adaptive`, for `select` only: the best of all heads
            are kept, and a block is as large as with `uniform`.
        budget_floor: Share of the uniform number that every head keeps with `adaptive`.
        layout: `frozen_raw` or `reference`, for `memory_tokens` only.
        window: Raw tokens per window, for the `reference` layout only.
    """

    kind: Literal["select", "stride", "pool", "hybrid", "memory_tokens"] = "select"
    compression_ratio: int = Field(default=4, ge=1, le=1024)
    importance: Literal["key_norm", "key_diff", "surprisal", "reconstruction", "learned"] = "key_diff"
    budget: Literal["uniform", "adaptive"] = "uniform"
    budget_floor: float = Field(default=0.1, ge=0.0, le=1.0)
    layout: Literal["frozen_raw", "reference"] = "frozen_raw"
    window: int = Field(default=2048, ge=1)

    @model_validator(mode="after")
    def _window_is_whole_groups(self) -> CompressorConfig:
        if self.layout == "reference" and self.window % self.compression_ratio:
            raise ValueError(f"window must be a multiple of compression_ratio ({self.compression_ratio})")
        return self

    @model_validator(mode="after")
    def _heads_can_be_compared(self) -> CompressorConfig:
        if self.budget == "adaptive" and (self.kind != "select" or self.importance == "surprisal"):
            raise ValueError("budget='adaptive' needs kind='select' and an importance that differs from head to head")
        return self


def fitting_compressor(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a compressor's settings without a budget and a score that its operator has not."""
    kind = settings.get("kind", "select")
    absent = {"budget", "budget_floor"} if kind != "select" else set()
    if kind not in ("select", "hybrid"):
        absent.add("importance")
    return {name: value for name, value in settings.items() if name not in absent}


class BankConfig(Config):
    """How blocks are stored.

    Attributes:
        storage: `int8` (keys per channel, values per token); `k4v4` and `k4v3`, about half as large: keys of 4 bits,
            values of 4 or 3; `int4`, the larger 4 bits of earlier releases; or `native`: the dtype they were made in.
            A bank may hold blocks of several; this is for new ones.
        segment_bytes: A segment file is closed when it is at least this long.
        max_bytes: Bytes that blocks may take; texts are not counted. Beyond it, what was opened longest ago is evicted,
            and compressed again when a question comes near. `None` for any number.
        wait_seconds: How long a writer waits for another one, and a reader for what takes all others out.
        layers: Which layers of a block are kept: `all`, or those that the `gate` reads, where no one else reads any.
    """

    storage: Literal["native", "int8", "int4", "k4v4", "k4v3"] = "int8"
    segment_bytes: int = Field(default=256 * 2**20, ge=4096)
    max_bytes: int | None = Field(default=None, ge=1)
    wait_seconds: float = Field(default=5.0, ge=0.0, le=3600.0)
    layers: Literal["all", "gate"] = "all"


class GateConfig(Config):
    """How blocks are judged.

    Attributes:
        kind: `likelihood` needs no training; `classifier` loads weights.
        threshold: A block is opened if its probability is above this. The paper uses 0.5. Where an exact
            number is opened instead, only blocks above it are noted, and none above it means not found.
        temperature: Divides the likelihood gate's log-likelihood gain, nats per token.
        bias: Gain at which the likelihood gate says 0.5, nats per token.
        batch_size: Rows of one forward. Without `layers` it is constant, short batches are filled with dummies, so that
            a score does not depend on its neighbours; with them at most so many, and four times as many at a glance.
        rescore_margin: A score this close to the threshold is computed again alone before it decides.
        layers: `(first, last)`: a `classifier` reads the prompt with the layers below `first` once for all, reads
            on beside each block with those from `first` on, and stops before `last`. `None`: all read both.
        seeing_tokens: With `layers`, only so many tokens of a prompt without notes see a block: its last few, and the
            ends of its most telling words. The others are read once for all.
        noted_seeing_tokens: The same for a prompt with notes, which says more; `None`: all of it see a block.
        glance_tokens: With `layers`, `best_first` and `top_k` glance at all candidates with so many tokens of any
            prompt, and judge in full what is most probable then. `None`: all are judged in full.
        full_looks: So many of those that are most probable at a glance are judged in full, and as many of those that
            were before the last note. What is opened had a full look.
        resident_bytes: What a classifier reads of blocks is kept in memory from question to question, in so many bytes
            of all banks together; 0: it is read and got ready for every look. See docs/deleting.md.
        lexical_weight: Added to a block's log-odds: this times the BM25 score of its text for question and notes,
            as a share of the bank's best. 0 leaves words out.
    """

    kind: Literal["likelihood", "classifier"] = "likelihood"
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    temperature: float = Field(default=0.25, gt=0.0)
    bias: float = Field(default=0.5)
    batch_size: int = Field(default=8, ge=1, le=1024)
    rescore_margin: float = Field(default=0.02, ge=0.0, le=1.0)
    layers: tuple[int, int] | None = None
    seeing_tokens: int = Field(default=32, ge=1)
    noted_seeing_tokens: int | None = Field(default=None, ge=1)
    glance_tokens: int | None = Field(default=None, ge=1)
    full_looks: int = Field(default=4, ge=1)
    resident_bytes: int = Field(default=128 * 2**20, ge=0)
    lexical_weight: float = Field(default=0.0, ge=0.0)

    @model_validator(mode="after")
    def _layers_are_a_range(self) -> GateConfig:
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1]:
            raise ValueError(f"layers must be (first, last) with 0 <= first < last, got {self.layers}")
        if self.layers is not None and self.kind != "classifier":
            raise ValueError("layers needs kind='classifier': a likelihood needs the backbone's last layer")
        return self


class ScanConfig(Config):
    """In which order blocks are judged and opened.

    Attributes:
        schedule: `sequential` is the paper's one pass; `lookahead` takes the same decisions in batches;
            `rescan` looks again at refused blocks with what was learned since; `best_first` opens the most
            probable block that passes, and looks at all others again with what it said.
        top_k: Open exactly this many blocks (or all there are), best first; `None` uses schedule and threshold.
            A number by default: the threshold of a gate without training does not carry over from one bank to
            the next (docs/decisions/0003).
        max_rounds: Passes over the refused blocks at most, the first one included.
        max_open: Blocks opened for one question at most.
        max_looks: For an answer `best_first`, which opens one block after each look, looks so many times at most;
            `None`, and for a search: until no block passes.
        fill_tokens: For an answer the most probable blocks left are opened too, as long as the texts of all that is
            open stay within so many tokens; `None`: they are not. Not with `top_k`, nor where nothing was found.
        fill_above: How probable a block must be for that.
        second_look: If the answer is not found in what was opened, the best block left is opened too, given a
            probability above this, and the question answered once more; `None`: it is not. Not with `top_k`.
        candidates: The gate judges only this many blocks, those that share most words with question and the notes of
            the moment, and others if they are fewer. `None` judges all. In a large bank this is what keeps a question
            cheap.
        least_share: The second half of the candidates is judged only as far as the words that each shares weigh this
            share, or more, of what the best one's do that nothing was noted of. In a small bank that leaves out what
            shares next to nothing, in a large one next to none. 0: all are judged.
        again: When a note changed what is known, `best_first` and `top_k` judge anew only the so many most probable of
            the blocks judged before, and the so many that share most words with the notes; others keep their
            probability. `None`: all are judged anew.
        max_question_tokens: Tokens of a question that are read at most, and a quarter of the backbone's window at most.
            Of a longer one, such as a pasted mail, the beginning and the end are read, half each.
    """

    schedule: Literal["sequential", "lookahead", "rescan", "best_first"] = "rescan"
    top_k: int | None = Field(default=4, ge=1)
    max_rounds: int = Field(default=3, ge=1, le=100)
    max_open: int = Field(default=8, ge=1)
    max_looks: int | None = Field(default=None, ge=1)
    fill_tokens: int | None = Field(default=None, ge=1)
    fill_above: float = Field(default=0.05, ge=0.0, le=1.0)
    second_look: float | None = Field(default=None, ge=0.0, le=1.0)
    candidates: int | None = Field(default=None, ge=1)
    least_share: float = Field(default=0.0, ge=0.0, le=1.0)
    again: int | None = Field(default=None, ge=1)
    max_question_tokens: int = Field(default=128, ge=16)

    @model_validator(mode="before")
    @classmethod
    def _source_is_gone(cls, settings: Any) -> Any:
        """Read settings saved when there were two ways to find candidates; the one there is does what both did."""
        if isinstance(settings, dict) and settings.get("source") in ("words", "characters"):
            return {name: value for name, value in settings.items() if name != "source"}
        return settings


class ReasonerConfig(Config):
    """How blocks become notes and notes an answer.

    Attributes:
        kind: `zero_shot` prompts the backbone as it is; `tuned` loads deltas and uses the prompts of training.
        memory: `append` adds a note per block; `rewrite` is the paper's: the whole memory anew each time.
        readback: `answer` takes notes and answers from the opened chunks' text, `verify` also turns an answer
            whose words the text does not hold into not-found, `off` uses what was read from blocks alone (the paper);
            tuned, it also reads the opened blocks again for the answer.
        reading: How a tuned reasoner reads the opened chunks' text for an answer: `apart`, each by itself and without
            deltas, as blocks are made; `together`, in one prompt, with deltas throughout. As it was trained.
        max_note_tokens: Tokens written per block at most.
        max_memory_tokens: Tokens of the working memory at most; the oldest notes go first.
        max_readback_tokens: Tokens of the opened chunks' text that the answer may read. Little by default: the
            default backbone loses the thread over more than a chunk or two.
        max_answer_tokens: Tokens of the answer at most.
        refusal_bias: Added to the log-odds, nats, with which a tuned reasoner begins to say that it found nothing.
            Fitted, as a gate's threshold is, on questions with and without their evidence.
        not_found: What the answer says when the bank does not hold it.
    """

    kind: Literal["zero_shot", "tuned"] = "zero_shot"
    memory: Literal["append", "rewrite"] = "append"
    readback: Literal["answer", "verify", "off"] = "answer"
    reading: Literal["apart", "together"] = "apart"
    max_note_tokens: int = Field(default=48, ge=1)
    max_memory_tokens: int = Field(default=512, ge=1)
    max_readback_tokens: int = Field(default=320, ge=1)
    max_answer_tokens: int = Field(default=64, ge=1)
    refusal_bias: float = 0.0
    not_found: str = Field(default="Not found in the documents.", min_length=1)


class MemRecallConfig(Config):
    """Everything that `MemRecall.save_pretrained` writes to `memrecall_config.json`."""

    format_version: Literal[1] = FORMAT_VERSION
    chunking: ChunkingConfig = ChunkingConfig()
    compressor: CompressorConfig = CompressorConfig()
    bank: BankConfig = BankConfig()
    gate: GateConfig = GateConfig()
    scan: ScanConfig = ScanConfig()
    reasoner: ReasonerConfig = ReasonerConfig()

    @model_validator(mode="after")
    def _whoever_reads_blocks_has_its_layers(self) -> MemRecallConfig:
        if self.bank.layers == "gate":
            if self.gate.layers is None or self.compressor.kind == "memory_tokens":
                raise ValueError("bank.layers='gate' needs gate.layers and a compressor that is an operator")
            if self.compressor.importance in ("surprisal", "reconstruction"):
                raise ValueError("bank.layers='gate' needs an importance that a layer's own keys and values tell")
            if self.reasoner.kind != "tuned" or self.reasoner.readback == "off":
                raise ValueError(
                    "bank.layers='gate' needs a tuned reasoner with readback: any other reads blocks itself"
                )
        return self

    @property
    def block_layers(self) -> tuple[int, int] | None:
        """Return the layers that blocks hold, `(first, last)`, or `None` for all."""
        return self.gate.layers if self.bank.layers == "gate" else None


def check_count(name: str, given: Any) -> int | None:
    """Return how many are wanted; `None` leaves it to the settings.

    Raises:
        InputError: If it is no whole number, or below 1.
    """
    if given is None or (isinstance(given, int) and given >= 1):
        return given
    raise InputError(f"Expected {name} to be a whole number of at least 1, got {given!r}.", "Ask for 1 or more.")
