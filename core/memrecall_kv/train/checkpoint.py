"""Training state on disk: weights and optimiser as safetensors, the step as JSON; written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from memrecall_kv.errors import InputError

_STATE = "state.safetensors"
_RECORD = "state.json"


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one and swap the two."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh / _STATE)
    (fresh / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for path in fresh.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and record of a checkpoint; of the one before if a swap was interrupted.

    Raises:
        InputError: If there is none.
    """
    for candidate in (folder, folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")):
        if (candidate / _RECORD).is_file():
            record = json.loads((candidate / _RECORD).read_text(encoding="utf-8"))
            return load_file(candidate / _STATE), record
    raise InputError(f"{folder} holds no checkpoint.", "Start the run without resuming.")
