"""The script's frame: its commands, its entry point, and its exit codes."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from memrecall_kv.cli import commands, measuring, training
from memrecall_kv.cli.commands import Loader
from memrecall_kv.cli.show import complain
from memrecall_kv.errors import MemRecallError

if TYPE_CHECKING:  # imports torch, which takes seconds; commands that need no model do without
    from memrecall_kv.pipeline import MemRecall

_RESUMABLE = frozenset({"demo", "ingest", "eval", "bench"})


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
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
        ] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
    ) -> None:
        ctx.obj = load or _from_pretrained
        logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")

    for command, example in (
        (commands.demo, "memrecall-kv demo"),
        (commands.ingest, "memrecall-kv ingest handbook.bank handbook/ notes.md"),
        (commands.ask, 'memrecall-kv ask handbook.bank "Who approves travel above the limit?"'),
        (commands.recall, 'memrecall-kv recall handbook.bank "travel limits" --top-k 3'),
        (commands.inspect, "memrecall-kv inspect handbook.bank"),
        (commands.delete, "memrecall-kv delete handbook.bank old/notes.md"),
        (commands.verify, "memrecall-kv verify handbook.bank"),
        (commands.compact, "memrecall-kv compact handbook.bank"),
        (training.train, "memrecall-kv train reasoner --data data/ --out runs/reasoner"),
        (measuring.evaluate, "memrecall-kv eval --task niah-single --documents 100 --questions 20 --out runs/needles"),
        (measuring.bench, "memrecall-kv bench --task niah-single --documents 20 --questions 2 --out runs/cost"),
    ):
        app.command(example.split()[1], epilog=f"Example: {example}")(command)
    return app


class _Commands(TyperGroup):
    """The one place where interruptions and errors of this library become exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            kept = " What was done is kept; the same command resumes." * (ctx.invoked_subcommand in _RESUMABLE)
            typer.echo(f"\nInterrupted.{kept}", err=True)
            raise typer.Exit(130) from error
        except MemRecallError as error:
            complain(error)
            raise typer.Exit(2) from error


def _from_pretrained(name_or_path: str | None, **options: Any) -> MemRecall:
    from memrecall_kv.pipeline import MemRecall

    return MemRecall.from_pretrained(name_or_path, **options)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(importlib.metadata.version("memrecall-kv"))
        raise typer.Exit
