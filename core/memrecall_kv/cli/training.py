"""The command that trains; its docstring is its help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memrecall_kv.cli import show
from memrecall_kv.errors import InputError


class StageName(StrEnum):
    """The stages, in the order in which they build on each other."""

    SCORER = "scorer"
    COMPRESSOR = "compressor"
    REASONER = "reasoner"
    RL = "rl"
    GATE = "gate"


def train(
    stage: Annotated[
        StageName, typer.Argument(metavar="STAGE", help="scorer, compressor, reasoner, rl or gate.", show_default=False)
    ],
    data: Annotated[Path, typer.Option(help="Directory of the training data.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run: metrics, checkpoint, adapters.", show_default=False)],
    preset: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings in YAML; the stage's own if left out.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one setting, as loop.steps=100.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Backbone: directory or hub id; the default one if left out.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto is the CPU.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the backbone: float32, bfloat16, float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a step.")] = False,
) -> None:
    """Train one part on your own data, or as the default was trained.

    Every step is logged to OUT/metrics.jsonl, and a checkpoint is kept that is never older than ten minutes: stop at
    will and go on with --resume. Start it with `accelerate launch -m memrecall_kv train ...` to use several processes.
    """
    from memrecall_kv.backbone.loading import load_backbone
    from memrecall_kv.train.settings import load_settings
    from memrecall_kv.train.stages import STAGES

    if not data.is_dir():
        raise InputError(f"{data} is no directory.", "Name the directory that the preset's paths are under.")
    settings: Any = load_settings(stage.value, preset, changes or ())
    backbone = load_backbone(model, device=device, dtype=dtype, attention="eager")
    with _bar(settings.loop.steps, hidden=as_json) as bar:
        task = bar.add_task(stage.value, total=settings.loop.steps, loss=float("nan"))

        def report(record: dict[str, Any]) -> None:
            bar.update(task, completed=record["step"], loss=record.get("loss", float("nan")))
            if as_json:
                show.print_json(record)
            elif any(name.startswith("held_out") for name in record):
                held_out = [f"{name} {value:.3f}" for name, value in record.items() if name.startswith("held_out")]
                bar.console.print(f"step {record['step']}: {', '.join(held_out)}")

        STAGES[stage.value](backbone, settings, data, out, resume=resume, report=report)
    if not as_json:
        typer.echo(f"Trained weights are in {out}; {out / 'metrics.jsonl'} holds the curves.")


def _bar(steps: int, *, hidden: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=hidden)
