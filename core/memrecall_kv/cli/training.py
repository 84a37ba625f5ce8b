"""The command that trains; its docstring is its help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memrecall_kv.cli import show
from memrecall_kv.errors import InputError

if TYPE_CHECKING:  # imports torch, which takes seconds
    from memrecall_kv.backbone.backbone import Backbone
    from memrecall_kv.train.recipe import Recipe, RecipeStage
    from memrecall_kv.train.settings import Settings


class StageName(StrEnum):
    """The stages, in the order in which they build on each other."""

    SCORER = "scorer"
    COMPRESSOR = "compressor"
    REASONER = "reasoner"
    RL = "rl"
    GATE = "gate"


_ALL = "all"


def _stage_or_all(given: str) -> str:
    known = [*StageName, _ALL]
    if given not in known:
        raise typer.BadParameter(f"{given!r} is not one of {', '.join(known)}.")
    return given


def train(
    stage: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            help="scorer, compressor, reasoner, rl or gate; all: what makes a pipeline.",
            show_default=False,
            parser=_stage_or_all,
        ),
    ],
    data: Annotated[Path, typer.Option(help="Directory of the training data.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run: metrics, checkpoint, adapters. A plan needs none.", show_default=False),
    ] = None,
    preset: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings in YAML; the stage's own if left out. For all also a name."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a setting, as loop.steps=9; for all gate.loop.steps=9."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print tokens, hours and bytes; load no weights and train nothing.")
    ] = False,
    flops: Annotated[
        float | None,
        typer.Option(help="For a plan: operations a second in training; measured here if left out.", min=1.0),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Backbone: directory or hub id; the default one if left out.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto is the CPU.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the backbone: float32, bfloat16, float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a step.")] = False,
) -> None:
    """Train one part on your own data, or all that make a pipeline.

    Every step is logged to OUT/metrics.jsonl, and a checkpoint is kept that is never older than ten minutes: stop at
    will and go on with --resume. Start it with `accelerate launch -m memrecall_kv train ...` to use several processes.
    With all, each run has a folder in OUT, and OUT/pipeline is what MemRecall.from_pretrained opens.

    A plan counts the tokens of the first steps. Its hours are for one process: two operations a weight of the layers
    and token forward, two back, over --flops or the speed of one layer here; attention and head are left out.
    """
    if not data.is_dir():
        raise InputError(f"{data} is no directory.", "Name the directory that the preset's paths are under.")
    asked = _Asked(stage, preset, changes or [], model, data, device, dtype)
    if plan:
        _plan(asked, flops, as_json=as_json)
    else:
        _train(asked, out, resume=resume, as_json=as_json)


@dataclass(frozen=True)
class _Asked:
    """What is to be trained, on what."""

    stage: str
    preset: Path | None
    changes: list[str]
    model: str | None
    data: Path
    device: str
    dtype: str

    def settings(self) -> Any:
        from memrecall_kv.train.settings import load_settings

        return load_settings(StageName(self.stage).value, self.preset, self.changes)

    def recipe(self) -> Recipe:
        from memrecall_kv.train.recipe import load_recipe

        return load_recipe(self.preset, self.changes, backbone=self.model)

    def backbone(self, name: str | None) -> Backbone:
        from memrecall_kv.backbone.loading import load_backbone

        return load_backbone(name, device=self.device, dtype=self.dtype, attention="eager")


def _train(asked: _Asked, out: Path | None, *, resume: bool, as_json: bool) -> None:
    if out is None:
        raise InputError("A run needs a folder.", "Name one with --out.")
    if asked.stage == _ALL:
        _train_all(asked, out, resume=resume, as_json=as_json)
    else:
        _train_stage(asked, out, resume=resume, as_json=as_json)


def _train_stage(asked: _Asked, out: Path, *, resume: bool, as_json: bool) -> None:
    from memrecall_kv.train.stages import STAGES

    settings = asked.settings()
    backbone = asked.backbone(asked.model)
    with _bar(hidden=as_json) as bar:
        report = _reporter(bar, asked.stage, settings.loop.steps, as_json=as_json)
        STAGES[StageName(asked.stage).value](backbone, settings, asked.data, out, resume=resume, report=report)
    if not as_json:
        typer.echo(f"Trained weights are in {out}; {out / 'metrics.jsonl'} holds the curves.")


def _train_all(asked: _Asked, out: Path, *, resume: bool, as_json: bool) -> None:
    from memrecall_kv.train.whole import train_all

    recipe = asked.recipe()
    recipe.pipeline_config()  # refused before a backbone is loaded
    backbone = asked.backbone(recipe.backbone)
    with _bar(hidden=as_json) as bar:

        def began(run: RecipeStage, settings: Settings) -> Callable[[dict[str, Any]], None]:
            return _reporter(bar, run.name, settings.loop.steps, as_json=as_json)

        made = train_all(backbone, recipe, asked.data, out, resume=resume, began=began)
    if not as_json:
        typer.echo(f"The pipeline is in {made}; MemRecall.from_pretrained opens it.")


def _plan(asked: _Asked, flops: float | None, *, as_json: bool) -> None:
    import torch

    from memrecall_kv.backbone.loading import dtype_of, load_outline
    from memrecall_kv.train.plan import plan_stage

    runs: list[tuple[str, Any]]
    if asked.stage == _ALL:
        recipe = asked.recipe()
        name: str | None = recipe.backbone
        runs = [(run.name, recipe.settings_of(run, Path())) for run in recipe.stages]
    else:
        name, runs = asked.model, [(asked.stage, asked.settings())]
    outline = load_outline(name)
    plans = [plan_stage(outline, run, settings, asked.data) for run, settings in runs]
    device = torch.device("cpu" if asked.device == "auto" else asked.device)
    dtype = dtype_of(asked.dtype, device)
    rate = flops or outline.measured_rate(device, dtype)
    rows = [
        {
            "stage": plan.name,
            "steps": plan.steps,
            "read_tokens": plan.read_tokens,
            "trained_tokens": plan.trained_tokens,
            "hours": plan.operations / rate / 3600,
            "training_bytes": plan.training_bytes,
            "checkpoint_bytes": plan.checkpoint_bytes,
            "written_bytes": plan.written_bytes,
        }
        for plan in plans
    ]
    weights = {
        "backbone": outline.name,
        "weights": outline.parameters,
        "weight_bytes": outline.parameters * dtype.itemsize,
        "operations_per_second": rate,
        "measured": flops is None,
    }
    if as_json:
        show.print_json({**weights, "stages": rows})
    else:
        _print_plan(weights, rows)


def _print_plan(weights: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    def scaled(number: float) -> str:
        unit = next(
            ((size, name) for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= size),
            (1, ""),
        )
        return f"{number / unit[0]:.4g}{unit[1]}"

    total = {name: sum(row[name] for row in rows) for name in rows[0] if name != "stage"}
    largest = {name: max(row[name] for row in rows) for name in ("training_bytes",)}
    typer.echo(f"{weights['backbone']}: {scaled(weights['weights'])} weights, {scaled(weights['weight_bytes'])}B")
    source = "measured on one layer here" if weights["measured"] else "as given"
    typer.echo(f"{scaled(weights['operations_per_second'])} operations a second, {source}")
    table = Table(box=None, pad_edge=False)
    heads = ("stage", "steps", "read", "trained", "hours", "in training", "checkpoint", "written")
    for head in heads:
        table.add_column(head, justify="left" if head == "stage" else "right")
    for row in [*rows, {"stage": "all", **total, **largest}]:
        stage, steps, read, trained, hours, *sizes = row.values()
        cells = [scaled(size) + "B" for size in sizes]
        table.add_row(stage, str(steps), scaled(read), scaled(trained), f"{hours:.3g}", *cells)
    Console(width=100).print(table)


def _reporter(bar: Progress, name: str, steps: int, *, as_json: bool) -> Callable[[dict[str, Any]], None]:
    task = bar.add_task(name, total=steps, loss=float("nan"))

    def report(record: dict[str, Any]) -> None:
        bar.update(task, completed=record["step"], loss=record.get("loss", float("nan")))
        if as_json:
            show.print_json(record)
        elif any(name.startswith("held_out") for name in record):
            held_out = [f"{name} {value:.3f}" for name, value in record.items() if name.startswith("held_out")]
            bar.console.print(f"{name} step {record['step']}: {', '.join(held_out)}")

    return report


def _bar(*, hidden: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=hidden)
