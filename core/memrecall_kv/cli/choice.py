"""From the command line's options, a settings file and a bank's fingerprint to the settings of a pipeline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from memrecall_kv.config import CompressorConfig, MemRecallConfig, default_directory, fitting_compressor
from memrecall_kv.errors import ConfigError, InputError

_SETTINGS_FILE = "memrecall_config.json"
_OPERATOR = re.compile(
    r"(?P<kind>select|stride|pool|hybrid)"
    r"(?::(?P<importance>[a-z_]+))?"
    r"(?::(?P<budget>adaptive):(?P<budget_floor>[^:]+))?"
    r"(?::[0-9a-f]+)?"  # the weights of a learned importance
)
"""What `OperatorCompressor.digest` writes; banks keep it."""


class CompressorName(StrEnum):
    """The compressors to choose from."""

    SELECT = "select"
    STRIDE = "stride"
    POOL = "pool"
    HYBRID = "hybrid"
    MEMORY_TOKENS = "memory_tokens"


@dataclass(frozen=True)
class Choice:
    """Which pipeline the user asked for."""

    model: str | None
    ratio: int | None = None
    compressor: CompressorName | None = None
    device: str = "auto"
    dtype: str | None = None
    config: Path | None = None

    def settings(self, made: Mapping[str, str]) -> MemRecallConfig | None:
        """Return the settings: the file's, else the model's own with what a bank was made with, and options on top.

        A bank's fingerprint does not hold all that a trained compressor needs; its model's own settings do.
        """
        options: dict[str, Any] = {"kind": self.compressor, "compression_ratio": self.ratio}
        options = {name: value for name, value in options.items() if value is not None}
        own = (Path(self.model) if self.model else default_directory()) / _SETTINGS_FILE
        settings = read_settings(self.config or own) if self.config or own.is_file() else {}
        operator = operator_of(made)
        if operator and not self.config and (not self.model or not own.is_file()):
            settings["compressor"] = operator.model_dump(exclude_unset=True)
            settings["bank"] = {**settings.get("bank", {}), "layers": "gate" if "layers" in made else "all"}
        elif not self.config and not options:
            return None
        settings["compressor"] = fitting_compressor({**settings.get("compressor", {}), **options})
        return MemRecallConfig(**settings)


def operator_of(made: Mapping[str, str]) -> CompressorConfig | None:
    """Return the settings of the operator that made a bank's blocks.

    Args:
        made: The bank's fingerprint, which does not name what it does not depend on; empty if there is no bank yet.

    Returns:
        `None` if no operator made them.
    """
    found = _OPERATOR.fullmatch(made.get("compressor", ""))
    if found is None:
        return None
    named: dict[str, Any] = {name: value for name, value in found.groupdict().items() if value is not None}
    return CompressorConfig(compression_ratio=int(made["compression_ratio"]), **named)


def read_settings(file: Path) -> dict[str, Any]:
    """Return the settings of a JSON file.

    Raises:
        InputError: If it cannot be read.
        ConfigError: If it is no JSON object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: expected a settings file, got: {error.strerror}.", "Check the path.") from error
    except ValueError as error:
        raise ConfigError(f"{file}: expected JSON, got: {error}.", "Correct the file.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a JSON object, got {type(data).__name__}.", "Put it into braces.")
    settings = data.get("settings", data)  # a saved pipeline's file names its backbone beside its settings
    return dict(settings)
