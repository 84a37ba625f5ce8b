"""The training loop of every stage: optimiser, schedule, clipping, metrics, checkpoints, resume.

A stage is a function from the step to losses. What it draws is a pure function of the step, so weights,
optimiser state and the step are all there is to resume from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]  # accelerate ships no types
from torch import Tensor

from memrecall_kv.errors import InputError, MissingDependencyError, NonFiniteLossError
from memrecall_kv.train.checkpoint import load_checkpoint, save_checkpoint
from memrecall_kv.train.settings import LoopConfig

StepLoss = Callable[[int], Iterable[tuple[Tensor, dict[str, float]]]]
"""Yields the parts of a draw's loss, each with what to log of it; gradients add up, and so do parts in the log.

A part's graph is freed before the next is made: parts are what keeps a step's memory small.
"""

Report = Callable[[dict[str, Any]], None]
"""Called with each record, for a progress bar; that of step 0 holds the validation alone."""


class TrainingLoop:
    """Trains named parameters.

    Args:
        parameters: Leaf tensors by name, float32.
        config: Steps, learning rate, clipping, checkpoints.
        folder: Where `metrics.jsonl` and `checkpoint/` go.
        validate: Called with the step every `validate_every` steps, and before the first; what it returns is logged.
        report: See `Report`.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        config: LoopConfig,
        folder: Path,
        *,
        validate: Callable[[int], dict[str, float]] | None = None,
        report: Report | None = None,
    ) -> None:
        self.config = config
        self._parameters = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
        self._folder = folder
        self._validate = validate
        self._report = report
        self._accelerator = Accelerator()
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
        self.step = 0

    @property
    def rank(self) -> int:
        """Return this process' number; each draws other data."""
        return int(self._accelerator.process_index)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; return whether there was one."""
        if not any(self._folder.glob("checkpoint*/state.json")):
            return False
        tensors, record = load_checkpoint(self._folder / "checkpoint")
        self.step = int(record["step"])
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[name])
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"{name}.exp_avg"].to(parameter.device),
                    "exp_avg_sq": tensors[f"{name}.exp_avg_sq"].to(parameter.device),
                }
        return True

    def train(self, loss_of: StepLoss) -> None:
        """Train to the last step.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite; the last checkpoint is left as it was.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        saved = time.monotonic()
        board = _board(self._folder) if self.config.tensorboard and self.rank == 0 else None
        with (self._folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
            if self._validate and self.step == 0:
                # without it a curve does not say whether training helped at all
                self._log({"step": 0, **self._validate(0)}, log, board)
            while self.step < self.config.steps:
                record = self._advance(loss_of)
                if self._validate and (self.step % self.config.validate_every == 0 or self.step == self.config.steps):
                    record |= self._validate(self.step)
                self._log(record, log, board)
                over = self.step == self.config.steps
                if self.rank == 0 and (over or time.monotonic() - saved > self.config.checkpoint_seconds):
                    self._save()
                    saved = time.monotonic()

        if board:
            board.close()

    def _log(self, record: dict[str, Any], log: TextIO, board: Any) -> None:
        if self.rank != 0:
            return
        log.write(json.dumps(record) + "\n")
        log.flush()
        if board:
            for name, value in record.items():
                board.add_scalar(name, value, self.step)
        if self._report:
            self._report(record)

    def _advance(self, loss_of: StepLoss) -> dict[str, Any]:
        started = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        metrics: dict[str, float] = {}
        # draws are numbered through all processes: as many in fewer processes are the same ones
        draws = self.config.gradient_accumulation_steps
        first = (self.step * self._accelerator.num_processes + self.rank) * draws
        for loss, part in chain.from_iterable(map(loss_of, range(first, first + draws))):
            self._check("loss", loss.detach())
            self._accelerator.backward(loss / draws)
            total += float(loss.detach()) / draws
            for name, value in part.items():
                metrics[name] = metrics.get(name, 0.0) + value / draws
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self._accelerator.num_processes > 1:
                parameter.grad = self._accelerator.reduce(parameter.grad, reduction="mean")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.config.clip_norm)
        self._check("gradient", norm)
        self._optimizer.step()
        self.step += 1
        seconds = time.perf_counter() - started
        return {
            "step": self.step,
            "loss": total,
            "gradient_norm": float(norm),
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            **metrics,
        }

    def _check(self, what: str, value: Tensor) -> None:
        if not bool(torch.isfinite(value)):
            last = self._folder / "checkpoint"
            raise NonFiniteLossError(
                f"The {what} of step {self.step} is {float(value)}; the last good checkpoint is "
                f"{last if last.exists() else 'none'}.",
                "Lower the learning rate or the gradient's clip norm, and resume.",
            )

    def _save(self) -> None:
        tensors = dict(self._parameters)
        for name, parameter in self._parameters.items():
            state = self._optimizer.state[parameter]
            tensors[f"{name}.exp_avg"] = state["exp_avg"]
            tensors[f"{name}.exp_avg_sq"] = state["exp_avg_sq"]
        save_checkpoint(self._folder / "checkpoint", tensors, {"step": self.step, "config": self.config.model_dump()})


def train_to_end(
    parameters: dict[str, Tensor],
    config: LoopConfig,
    out: Path,
    step: StepLoss,
    validate: Callable[[int], dict[str, float]],
    *,
    resume: bool,
    report: Report | None,
) -> bool:
    """Train to the end; return whether it is for this process to write what was trained.

    Raises:
        InputError: If there is nothing to resume, or a run that was not asked for.
    """
    loop = TrainingLoop(parameters, config, out, validate=validate, report=report)
    found = loop.resume() if resume else (out / "metrics.jsonl").exists()
    if resume and not found:
        raise InputError(f"{out} holds no checkpoint.", "Start the run without resuming.")
    if not resume and found:
        raise InputError(f"{out} holds a run already.", "Resume it, or name a new folder.")
    loop.wait()  # or the first process' log would be a run already to another that looks later
    loop.train(step)
    return loop.rank == 0


def means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each measure over the parts that have it."""
    names = sorted({name for part in parts for name in part})
    return {
        f"held_out_{name}": sum(found) / len(found)
        for name in names
        for found in [[part[name] for part in parts if name in part]]
    }


def learning_rate(step: int, config: LoopConfig) -> float:
    """Return the rate of a step: linear warm-up, then a half cosine down to a tenth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError("TensorBoard is not installed.", 'pip install "memrecall-kv[train]"') from error
    return SummaryWriter(folder / "tensorboard")
