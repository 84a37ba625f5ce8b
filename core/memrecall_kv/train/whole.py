"""All stages of a recipe, one after the other, and the pipeline that they make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState  # type: ignore[import-untyped]  # accelerate ships no types

from memrecall_kv import assemble
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.config import MemRecallConfig
from memrecall_kv.errors import InputError
from memrecall_kv.train.loop import Report
from memrecall_kv.train.recipe import Recipe, RecipeStage
from memrecall_kv.train.settings import Settings
from memrecall_kv.train.stages import STAGES

PIPELINE = "pipeline"
"""The folder, beside the stages', that `MemRecall.from_pretrained` opens."""
_STAGE_FILE = "stage.json"
"""Settings that a stage began with, and whether it is finished."""


def train_all(
    backbone: Backbone,
    recipe: Recipe,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    began: Callable[[RecipeStage, Settings], Report | None] | None = None,
) -> Path:
    """Train a recipe's stages, each in its own folder of `out`, and return the pipeline's directory.

    Args:
        backbone: Frozen here.
        recipe: The stages.
        root: The data's directory.
        out: Folder of the whole run.
        resume: Leave out the stages that are finished, and go on with the first that is not.
        began: Called before a stage trains; returns what is called with each of its records.

    Raises:
        InputError: If the folder holds another run, or one that was not to be resumed.
        ConfigError: If a setting is out of range; known before anything is trained.
    """
    config, state = recipe.pipeline_config(), PartialState()
    planned = [(run, recipe.settings_of(run, out)) for run in recipe.stages]
    if not resume and any((out / run.name).exists() for run, _ in planned):
        raise InputError(f"{out} holds a run already.", "Resume it, or name a new folder.")
    for run, settings in planned:
        folder, record = out / run.name, _record(backbone, run, settings)
        finished, going_on = _is_finished(folder, record), any(folder.glob("checkpoint*/state.json"))
        # every process has looked before one of them writes
        state.wait_for_everyone()
        if finished:
            continue
        if state.is_main_process:
            _mark(folder, record, finished=False)
            if not going_on:
                # stopped before its first checkpoint: it starts anew
                (folder / "metrics.jsonl").unlink(missing_ok=True)
        state.wait_for_everyone()
        report = began(run, settings) if began else None
        STAGES[run.stage](backbone, settings, root, folder, resume=going_on, report=report)
        if state.is_main_process:
            _mark(folder, record, finished=True)
        state.wait_for_everyone()
    if state.is_main_process and not (out / PIPELINE).exists():
        _put_together(backbone, recipe, config, out)
    state.wait_for_everyone()
    return out / PIPELINE


def _record(backbone: Backbone, run: RecipeStage, settings: Settings) -> dict[str, Any]:
    """Return what a stage must have begun with to be gone on with; folders may have moved since."""
    values = settings.model_dump(mode="json") | {"start_from": run.start_from}
    return {"backbone": backbone.fingerprint, "stage": run.stage, "settings": values}


def _is_finished(folder: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a stage has nothing left to do; one that was begun otherwise is refused."""
    path = folder / _STAGE_FILE
    if not path.is_file():
        return False
    begun = json.loads(path.read_text(encoding="utf-8"))
    finished = bool(begun.pop("finished"))
    if begun != record:
        raise InputError(
            f"{folder} was begun with other settings or another backbone.",
            "Resume with the preset, changes and model of then, or name a new folder.",
        )
    return finished


def _mark(folder: Path, record: Mapping[str, Any], *, finished: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{_STAGE_FILE}.new"
    fresh.write_text(json.dumps({**record, "finished": finished}, indent=2) + "\n", encoding="utf-8")
    fresh.replace(folder / _STAGE_FILE)


def _put_together(backbone: Backbone, recipe: Recipe, config: MemRecallConfig, out: Path) -> None:
    """Write the pipeline's directory, opened once before it gets its name."""
    fresh = out / f"{PIPELINE}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(out / recipe.compressor / "compressor", fresh / "compressor")
    shutil.copytree(out / recipe.gate / "gate", fresh / "gate")
    readers = [LoraAdapter.from_directory(out / name / "reasoner") for name in recipe.reasoner]
    reader = LoraAdapter.mean(readers).half() if len(readers) > 1 else readers[0]
    reader.save(fresh / "reasoner", base_model=backbone.name)
    assemble.save(assemble.build(backbone, config, fresh), fresh)
    fresh.rename(out / PIPELINE)
