"""Settings of the training stages, from presets in YAML.

Every stage's settings are one object with a `loop`, `data` and what the stage itself needs. A preset is a file of
`presets/` or the caller's own; single values are replaced with `key.key=value`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from memrecall_kv.config import Config
from memrecall_kv.errors import ConfigError, InputError, MissingDependencyError

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_ALL_TARGETS: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoopConfig(Config):
    """How parameters are updated, in every stage.

    Attributes:
        steps: Updates in all.
        gradient_accumulation_steps: Draws of each process in an update, whose gradients are averaged. With as many in
            all processes together, a run takes the same way in one process and in several.
        learning_rate: Peak of the schedule.
        warmup_steps: Linear from zero.
        clip_norm: Largest norm of the gradient.
        weight_decay: Of AdamW.
        checkpoint_seconds: Longest time without a checkpoint, at most ten minutes.
        validate_every: Steps between validations.
        seed: Of initial weights and of everything that is drawn.
        tensorboard: Also write TensorBoard events.
    """

    steps: int = Field(default=1000, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    checkpoint_seconds: float = Field(default=300.0, gt=0, le=600)
    validate_every: int = Field(default=200, ge=1)
    seed: int = 0
    tensorboard: bool = False


class QuestionFile(Config):
    """A file of questions.

    Attributes:
        path: Under the data directory.
        drop_titles: Leave titles out, where a title gives the answer away.
        skip_ids: Rows that must not train.
        skip_prefix: Rows whose id begins with this are left out; empty keeps all.
    """

    path: str
    drop_titles: bool = False
    skip_ids: tuple[str, ...] = ()
    skip_prefix: str = ""


class DataConfig(Config):
    """What a stage trains on.

    Attributes:
        questions: Files of questions; an id that occurs twice is used once.
        texts: Files of plain text, for reconstruction.
        validation_rows: Held-out questions that are validated on, at most.
    """

    questions: tuple[QuestionFile, ...]
    texts: tuple[str, ...] = ()
    validation_rows: int = Field(default=96, ge=1)


class AdapterConfig(Config):
    """Low-rank deltas.

    Attributes:
        rank: Rank of the deltas.
        alpha: Scale times rank.
        targets: Linear layers that are changed.
    """

    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64.0, gt=0)
    targets: tuple[Target, ...] = _ALL_TARGETS


class ReadingTraining(Config):
    """Stage `compressor` (memory tokens and reader together) and stage `reasoner` (the reader alone).

    Attributes:
        loop: Updates.
        data: Rows.
        ratios: Compression ratios, one drawn per step; empty reads uncompressed chunks only.
        compressor: Deltas at memory tokens.
        reader: Deltas of the reader.
        budget: Chunk tokens per step, about.
        spans: Reconstruction spans per chunk.
        kl_weight: Of the divergence from the same reader on uncompressed chunks.
        span_weight: Of reconstruction.
        text_every: Every so many steps the reader also trains on uncompressed chunks.
        start_from: Folder of a reader's adapter whose deltas training starts from; empty starts from zero.
    """

    loop: LoopConfig = LoopConfig()
    data: DataConfig
    ratios: tuple[int, ...] = ()
    compressor: AdapterConfig = AdapterConfig()
    reader: AdapterConfig = AdapterConfig()
    budget: int = Field(default=1400, ge=1)
    spans: int = Field(default=4, ge=0)
    kl_weight: float = Field(default=0.5, ge=0)
    span_weight: float = Field(default=0.5, ge=0)
    text_every: int = Field(default=4, ge=1)
    start_from: str = ""


class ScorerTraining(Config):
    """Stage `scorer`: predict which tokens each head needs, from reconstruction.

    Attributes:
        loop: Updates.
        data: Texts, and questions whose paragraphs are read.
        width: Numbers inside the scorer per layer.
        budget: Chunk tokens per step, about.
        floor: Scores below this count as this, log attention.
    """

    loop: LoopConfig = LoopConfig(learning_rate=2e-3)
    data: DataConfig
    width: int = Field(default=64, ge=1)
    budget: int = Field(default=1200, ge=1)
    floor: float = Field(default=-9.0, lt=0)


class GateTraining(Config):
    """Stage `gate`.

    Attributes:
        loop: Updates.
        data: Rows.
        adapter: Deltas of the gate.
        lists: Lists of chunks per step.
        mined: Chunks of other questions that share most words with a state, added to its list.
        positive_weight: Weight of a relevant block in the binary cross-entropy (the paper's 3).
        list_weight: Weight of the competition inside a list.
        layers: The layers it reads with, as in `memrecall_kv.config.GateConfig`; `None` for all.
        seeing_tokens: As in `memrecall_kv.config.GateConfig`.
        noted_seeing_tokens: As in `memrecall_kv.config.GateConfig`.
        start_from: Folder of a gate to go on from, or of a reader's adapter whose deltas the gate starts from; empty
            starts from zero.
        teacher: Folder of a gate of all layers, whose judgements of uncompressed chunks are learned besides the labels;
            empty learns from labels alone.
        scorer: Folder of a score of what to keep: chunks are compressed with it as in a bank; empty leaves them whole.
        ratio: Compression ratio, with `scorer`.
        noted_sentences: In half of the states with notes, so many sentences nearest to the question stand for each hop,
            as a pipeline notes them, instead of its supporting ones; 0 leaves all as they are.
        fitted_lists: Lists over which the head is fitted to the teacher's logits before the first step, by least
            squares: a window's last layer shows other states than the backbone's. 0 starts with the head as it is.
    """

    loop: LoopConfig = LoopConfig(learning_rate=5e-4)
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig(rank=16, alpha=32.0)
    lists: int = Field(default=2, ge=1)
    mined: int = Field(default=3, ge=0)
    positive_weight: float = Field(default=3.0, gt=0)
    list_weight: float = Field(default=0.5, ge=0)
    layers: tuple[int, int] | None = None
    seeing_tokens: int = Field(default=32, ge=1)
    noted_seeing_tokens: int | None = Field(default=None, ge=1)
    start_from: str = ""
    teacher: str = ""
    scorer: str = ""
    ratio: int = Field(default=4, ge=1)
    noted_sentences: int = Field(default=0, ge=0)
    fitted_lists: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _a_fit_needs_a_teacher(self) -> GateTraining:
        if self.fitted_lists and not self.teacher:
            raise ValueError("fitted_lists: expected a teacher to fit the head to; set teacher too")
        return self


class RlTraining(Config):
    """Stage `rl`: the reader, and the compressor through its blocks, from the reward of whole trajectories.

    Attributes:
        loop: Updates.
        data: Rows.
        start_from: Folder with `reasoner/` and, with a ratio, `compressor/`, where training starts; the reference.
        ratio: Compression ratio of the memory-token compressor; 0 reads uncompressed chunks.
        prompts: Questions per step.
        group_size: Rollouts per question, the paper's G.
        clip: Half-width of the interval around 1 in which a sequence's ratio earns.
        kl_coef: Weight of the divergence from the reference.
        temperature: Of the rollouts.
        note_tokens: Most tokens of a note; 0 takes none: the trajectory is the answer alone.
        answer_tokens: Most tokens of an answer.
        format_weight: Reward for an answer that ends in time.
        grounding_weight: Reward for an answer whose words occur in the chunks.
    """

    loop: LoopConfig = LoopConfig(steps=150, learning_rate=3e-5, warmup_steps=10, validate_every=25)
    data: DataConfig
    start_from: str
    ratio: int = Field(default=0, ge=0)
    prompts: int = Field(default=2, ge=1)
    group_size: int = Field(default=12, ge=2)
    clip: float = Field(default=0.2, gt=0, lt=1)
    kl_coef: float = Field(default=1e-3, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    note_tokens: int = Field(default=0, ge=0)
    answer_tokens: int = Field(default=16, ge=1)
    format_weight: float = Field(default=0.0, ge=0)
    grounding_weight: float = Field(default=0.0, ge=0)


PRESETS = resources.files("memrecall_kv.train") / "presets"

Stage = Literal["scorer", "compressor", "reasoner", "gate", "rl"]
Settings = ScorerTraining | ReadingTraining | GateTraining | RlTraining
_SETTINGS: dict[str, type[ScorerTraining] | type[ReadingTraining] | type[GateTraining] | type[RlTraining]] = {
    "scorer": ScorerTraining,
    "compressor": ReadingTraining,
    "reasoner": ReadingTraining,
    "gate": GateTraining,
    "rl": RlTraining,
}


def load_settings(stage: Stage, preset: Path | None = None, changes: Sequence[str] = ()) -> Settings:
    """Return a stage's settings.

    Args:
        stage: Which.
        preset: A YAML file; the stage's own preset if `None`.
        changes: `key.key=value`, the value in YAML.

    Raises:
        ConfigError: If a setting is unknown or out of range.
        InputError: If the file cannot be read.
        MissingDependencyError: If PyYAML is not installed.
    """
    return _SETTINGS[stage](**read_preset(preset or PRESETS / f"{stage}.yaml", changes))


def settings_over_preset(stage: Stage, *layers: Mapping[str, Any]) -> Settings:
    """Return a stage's own preset with values laid over it, the last ones on top; errors as in `load_settings`."""
    values = read_preset(PRESETS / f"{stage}.yaml")
    for layer in layers:
        values = laid_over(values, layer)
    return _SETTINGS[stage](**values)


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others on top; what both divide further is laid over key by key."""
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        both[key] = laid_over(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return both


def read_preset(source: Traversable, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a preset holds, with single values replaced; arguments and errors as in `load_settings`."""
    try:
        values = _parsed(source.read_text(encoding="utf-8"), str(source))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: {error}", "Give a readable YAML file.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds no settings.", "Begin with one of the presets.")
    return changed(values, changes)


def changed(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return settings with single values replaced; arguments and errors as in `load_settings`."""
    made = copy.deepcopy(dict(values))
    for change in changes:
        key, _, value = change.partition("=")
        _replace(made, key.split("."), _parsed(value, change))
    return made


def _parsed(text: str, shown: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]  # ships no types
    except ImportError as error:
        raise MissingDependencyError("Presets are YAML files.", 'pip install "memrecall-kv[train]"') from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{shown}: {error}", "Give a readable YAML file and changes as key=value.") from error


def _replace(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(keys)} names nothing: {key} is a single value.", "Leave the rest out.")
    values[keys[-1]] = value
