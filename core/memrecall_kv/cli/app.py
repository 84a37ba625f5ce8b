"""The script's frame: its commands, its entry point, and its exit codes."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from memrecall_kv.cli import archives, commands, measuring, serving, syncing, training
from memrecall_kv.cli.commands import Loader
from memrecall_kv.cli.show import complain
from memrecall_kv.errors import MemRecallError

if TYPE_CHECKING:  # imports torch, which takes seconds; commands that need no model do without
    from memrecall_kv.pipeline import MemRecall

_RESUMABLE = frozenset({"demo", "ingest", "sync", "eval", "bench"})
_HELP = """Compress documents into memory blocks; ask, and get answers with sources.

\b
Examples:
  memrecall-kv sync notes/ my.bank
  memrecall-kv ask my.bank "Who pays?"
  memrecall-kv ask my.bank
"""
_EPILOG = """Results go to stdout, all else to stderr. COMMAND --help shows a command.

\b
Exit codes:
  0    done
  1    not found, or damage found
  2    an error, with its remedy
  130  interrupted
"""
_COMMANDS: tuple[tuple[Callable[..., None], str, str], ...] = (
    (commands.demo, "Try it on a built-in book", "memrecall-kv demo"),
    (commands.ingest, "Add files to a bank", "memrecall-kv ingest handbook.bank handbook/ notes.md"),
    (syncing.sync, "Make a bank like a folder", "memrecall-kv sync handbook/ handbook.bank --dry-run"),
    (commands.ask, "Answer questions", 'memrecall-kv ask handbook.bank "Who approves travel above the limit?"'),
    (commands.recall, "Show what would be read", 'memrecall-kv recall handbook.bank "travel limits" --top-k 3'),
    (commands.inspect, "Show what a bank holds", "memrecall-kv inspect handbook.bank"),
    (commands.delete, "Delete documents", "memrecall-kv delete handbook.bank old/notes.md"),
    (commands.verify, "Look for damage", "memrecall-kv verify handbook.bank"),
    (commands.compact, "Free space", "memrecall-kv compact handbook.bank"),
    (archives.export, "Write a bank to a file", "memrecall-kv export handbook.bank handbook.zip"),
    (archives.import_, "Make a bank of a file", "memrecall-kv import handbook.zip handbook.bank"),
    (serving.serve, "Serve banks over HTTP", "memrecall-kv serve handbook.bank --port 8000"),
    (serving.mcp, "Offer banks to agents", "memrecall-kv mcp handbook.bank"),
    (serving.key, "Make a key for a server", "memrecall-kv key keys.json alice --bank handbook"),
    (training.train, "Train a part, or all", "memrecall-kv train reasoner --data data/ --out runs/reasoner"),
    (
        measuring.evaluate,
        "Measure answers",
        "memrecall-kv eval --task niah-single --documents 100 --questions 20 --out runs/needles",
    ),
    (
        measuring.bench,
        "Measure cost",
        "memrecall-kv bench --task niah-single --documents 20 --questions 2 --out runs/cost",
    ),
)
"""Commands, what they do in at most 25 letters, which a narrow terminal has room for, and an example."""
_WIDEST = 80
_NARROWEST = 20


def run(arguments: Sequence[str] | None, load: Loader | None) -> None:
    """Run the script and exit; see `main`."""
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)  # a terminal that lacks a letter is no reason to stop
    build_app(load)(args=None if arguments is None else list(arguments))


def build_app(load: Loader | None = None) -> typer.Typer:
    """Return the script's commands around a way to load a pipeline; `MemRecall.from_pretrained` if `None`."""
    app = typer.Typer(
        name="memrecall-kv",
        help=_HELP,
        epilog=_EPILOG,
        cls=_Commands,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        # on its own click writes at least 50 columns
        context_settings={"terminal_width": min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST) - 2},
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

    for command, short, example in _COMMANDS:
        app.command(example.split()[1], short_help=short, epilog=f"Example: {example}")(command)
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
