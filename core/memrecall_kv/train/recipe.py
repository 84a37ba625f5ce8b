"""A recipe: the stages that make up a pipeline, in order, and what each hands to the next.

Recipes are YAML files, those of `presets/all/` or the caller's own. A stage's settings are laid over its own preset.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from memrecall_kv.assemble import CONFIG_NAME
from memrecall_kv.config import Config, MemRecallConfig, default_directory, fitting_compressor
from memrecall_kv.errors import InputError
from memrecall_kv.train.settings import (
    PRESETS,
    GateTraining,
    Settings,
    Stage,
    changed,
    laid_over,
    read_preset,
    settings_over_preset,
)

_RECIPES = PRESETS / "all"
_READ_AS_TRAINED = {"layers", "seeing_tokens", "noted_seeing_tokens"}
"""Settings of a gate that hold for its training and for its pipeline."""
_READ_BY_A_STAGE = {
    "reasoner": {"reading": "apart", "refusal_bias": 0.0},
    "scan": {"max_looks": None, "fill_tokens": None},
}
"""How a stage's reader reads: each chunk by itself, so that more of them add nothing (docs/decisions/0022)."""
DEFAULT_RECIPE = "smollm2-135m"
_WRITES: dict[Stage, tuple[str, ...]] = {
    "scorer": ("compressor",),
    "compressor": ("compressor", "reasoner"),
    "reasoner": ("reasoner",),
    "rl": ("compressor", "reasoner"),
    "gate": ("gate",),
}


class RecipeStage(Config):
    """One run of a stage.

    Attributes:
        name: Of its folder.
        stage: What is trained.
        start_from: Name of an earlier run whose weights it starts from; empty starts from zero.
        teacher: Name of an earlier gate that a gate learns from; empty learns from labels alone.
        scorer: Name of an earlier scorer with which a gate's chunks are compressed; empty leaves them whole.
        settings: Laid over the stage's own preset.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    stage: Stage
    start_from: str = ""
    teacher: str = ""
    scorer: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class Recipe(Config):
    """The runs that make a pipeline.

    Attributes:
        backbone: Directory or hub id.
        data: Laid over `data` of every stage's preset.
        stages: The runs, in order.
        compressor: Name of the run whose `compressor/` the pipeline gets.
        reasoner: Names of the runs whose `reasoner/` it gets; of several the mean of their weights.
        gate: Name of the run whose `gate/` it gets.
        pipeline: Settings laid over those of the packaged pipeline; `gate.layers`, `gate.seeing_tokens` and
            `gate.noted_seeing_tokens` are those that the gate was trained with, and a bank keeps those layers unless
            it is set here.
    """

    backbone: str
    data: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[RecipeStage, ...] = Field(min_length=1)
    compressor: str
    reasoner: tuple[str, ...] = Field(min_length=1)
    gate: str
    pipeline: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _every_part_comes_from_somewhere(self) -> Recipe:
        writes: dict[str, tuple[str, ...]] = {}
        for run in self.stages:
            if run.name in writes:
                raise ValueError(f"two stages are called {run.name}")
            # a gate may start from a reader, too
            wanted = ("gate", "reasoner") if run.stage == "gate" else ("reasoner",)
            if run.start_from and not set(wanted) & set(writes.get(run.start_from, ())):
                raise ValueError(f"{run.name} starts from {run.start_from}, which is no earlier stage that writes one")
            if run.start_from and run.stage == "scorer":
                raise ValueError(f"{run.name} is a scorer, which starts from nothing")
            for part, name in (("gate", run.teacher), ("compressor", run.scorer)):
                if name and (run.stage != "gate" or part not in writes.get(name, ())):
                    raise ValueError(f"{run.name} learns with {name}, which is no earlier {part} of a gate to be")
            for handed in {"start_from", "teacher", "scorer"} & run.settings.keys():
                raise ValueError(f"{run.name} sets {handed} among its settings; it belongs beside the name")
            writes[run.name] = _WRITES[run.stage]
        parts = [("compressor", self.compressor), ("gate", self.gate), *(("reasoner", name) for name in self.reasoner)]
        for part, name in parts:
            if part not in writes.get(name, ()):
                raise ValueError(f"{part} is to come from {name}, which is no stage that writes one")
        return self

    def settings_of(self, run: RecipeStage, out: Path) -> Settings:
        """Return the settings of a run whose folder stands in `out` beside the others'.

        Raises:
            ConfigError: If a setting is unknown or out of range.
        """
        handed = {"start_from": str(self._start(run, out))} if run.start_from else {}
        handed |= {"teacher": str(out / run.teacher / "gate")} if run.teacher else {}
        handed |= {"scorer": str(out / run.scorer / "compressor")} if run.scorer else {}
        return settings_over_preset(run.stage, {"data": self.data}, run.settings, handed)

    def _start(self, run: RecipeStage, out: Path) -> Path:
        earlier = next(other for other in self.stages if other.name == run.start_from)
        if run.stage == "rl":
            return out / earlier.name
        return out / earlier.name / ("gate" if earlier.stage == "gate" else "reasoner")

    def pipeline_config(self) -> MemRecallConfig:
        """Return the settings of the pipeline that is made.

        Raises:
            ConfigError: If a setting is unknown, out of range, or contradicts how a part is trained.
        """
        packaged = json.loads((default_directory() / CONFIG_NAME).read_text(encoding="utf-8"))["settings"]
        trained = self.settings_of(next(run for run in self.stages if run.name == self.gate), Path())
        gate = trained.model_dump(include=_READ_AS_TRAINED) if isinstance(trained, GateTraining) else {}
        # a bank keeps what the gate reads; a recipe may say otherwise, of this and of how a stage's reader reads
        kept = {"bank": {"layers": "gate" if gate.get("layers") else "all"}, **_READ_BY_A_STAGE}
        values = laid_over(laid_over(laid_over(packaged, kept), self.pipeline), {"gate": gate})
        return MemRecallConfig(**{**values, "compressor": fitting_compressor(values["compressor"])})


def load_recipe(preset: Path | None = None, changes: Sequence[str] = (), *, backbone: str | None = None) -> Recipe:
    """Return a recipe.

    Args:
        preset: A YAML file, or the name of a packaged recipe; the packaged default's if `None`.
        changes: `NAME.key.key=value`, the value in YAML, for the run of that name.
        backbone: Instead of the recipe's.

    Raises:
        ConfigError: If a setting is unknown or out of range.
        InputError: If there is no such recipe or run.
        MissingDependencyError: If PyYAML is not installed.
    """
    values = read_preset(_source(preset))
    recipe = Recipe(**(values | ({"backbone": backbone} if backbone else {})))
    settings = {run.name: run.settings for run in recipe.stages}
    for change in changes:
        name, _, rest = change.partition(".")
        if name not in settings:
            known = ", ".join(settings)
            raise InputError(f"{change}: no stage is called {name!r}.", f"Begin with one of {known}, and a dot.")
        settings[name] = changed(settings[name], [rest])
    stages = tuple(run.model_copy(update={"settings": settings[run.name]}) for run in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


def _source(preset: Path | None) -> Traversable:
    known = sorted(entry.name.removesuffix(".yaml") for entry in _RECIPES.iterdir())
    name = str(preset or DEFAULT_RECIPE)
    if name in known:
        return _RECIPES / f"{name}.yaml"
    if preset is None or not preset.is_file():
        raise InputError(f"{name} is no file, and no preset is called so.", f"Give a YAML file or {', '.join(known)}.")
    return preset
