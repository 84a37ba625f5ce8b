"""The script `memrecall-kv`: the methods of `MemRecall` and `MemoryBank` under the same names.

This is the only file that prints and configures logging. Results go to standard output, progress and errors to
standard error. Exit codes: 0 done; 1 nothing found, or verification failed; 2 wrong usage or a `MemRecallError`;
130 interrupted.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from memrecall_kv import demo as demonstration
from memrecall_kv.config import MemRecallConfig
from memrecall_kv.documents import read_documents
from memrecall_kv.errors import BlockCorruptError, ConfigError, InputError, MemRecallError
from memrecall_kv.types import Answer, Done, Event, IngestReport, Opened, Progress, Recall, Token

if TYPE_CHECKING:  # both import torch, which takes seconds; commands that need no model do without
    from memrecall_kv.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall

Loader: TypeAlias = Callable[..., "MemRecall"]
"""Called like `MemRecall.from_pretrained`."""

_SETTINGS_FILE = "memrecall_config.json"
_OPERATORS = frozenset({"select", "stride", "pool", "hybrid"})
_SNIPPET = 160
_RESUMABLE = frozenset({"demo", "ingest"})


class Compressor(StrEnum):
    """The compressors to choose from."""

    SELECT = "select"
    STRIDE = "stride"
    POOL = "pool"
    HYBRID = "hybrid"
    MEMORY_TOKENS = "memory_tokens"


BankPath = Annotated[Path, typer.Argument(metavar="BANK", help="Directory of the bank.", show_default=False)]
Model = Annotated[
    str | None, typer.Option(help="Directory or hub id of the model; the default one if left out.", show_default=False)
]
Ratio = Annotated[int | None, typer.Option(help="Source tokens per memory token.", show_default=False)]
Kind = Annotated[Compressor | None, typer.Option("--compressor", help="How chunks become blocks.", show_default=False)]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; auto is the CPU.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, float16; the bank's if left out.", show_default=False)
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in JSON, as MemRecallConfig takes them.", show_default=False),
]
TopK = Annotated[
    int | None, typer.Option(min=1, help="Open exactly this many blocks, the best first.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Questions = Annotated[list[str], typer.Argument(metavar="QUESTION...", help="What is asked.", show_default=False)]


class _Commands(TyperGroup):
    """The one place where interruptions and errors of this library become exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            kept = " What was ingested is kept; the same command resumes." * (ctx.invoked_subcommand in _RESUMABLE)
            typer.echo(f"\nInterrupted.{kept}", err=True)
            raise typer.Exit(130) from error
        except MemRecallError as error:
            _complain(error)
            raise typer.Exit(2) from error


def main(arguments: Sequence[str] | None = None, load: Loader | None = None) -> None:
    """Run the script and exit.

    Args:
        arguments: Instead of those of the process.
        load: Instead of `MemRecall.from_pretrained`.

    Raises:
        SystemExit: Always, with the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to stop
    build_app(load)(args=None if arguments is None else list(arguments))


def build_app(load: Loader | None = None) -> typer.Typer:
    """Return the script's commands around a way to load a pipeline; `MemRecall.from_pretrained` if `None`."""
    app = typer.Typer(
        name="memrecall-kv",
        help="Compress documents once into memory blocks; ask and get answers with their sources.",
        cls=_Commands,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def root(
        ctx: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
    ) -> None:
        ctx.obj = load or _from_pretrained
        logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")

    for command, example in (
        (demo, "memrecall-kv demo"),
        (ingest, "memrecall-kv ingest handbook.bank handbook/ notes.md"),
        (ask, 'memrecall-kv ask handbook.bank "Who approves travel above the limit?"'),
        (recall, 'memrecall-kv recall handbook.bank "travel limits" --top-k 3'),
        (inspect, "memrecall-kv inspect handbook.bank"),
        (delete, "memrecall-kv delete handbook.bank old/notes.md"),
        (verify, "memrecall-kv verify handbook.bank"),
        (compact, "memrecall-kv compact handbook.bank"),
    ):
        app.command(epilog=f"Example: {example}")(command)
    return app
