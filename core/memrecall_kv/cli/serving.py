"""The commands that serve banks and make keys for that; their docstrings are their help."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memrecall_kv.cli import show
from memrecall_kv.cli.choice import Choice, read_settings
from memrecall_kv.cli.commands import AsJson, ConfigFile, Device, Dtype, Loader, Model, made_with
from memrecall_kv.errors import MissingDependencyError

if TYPE_CHECKING:  # imports FastAPI, which is an extra
    from memrecall_kv.serve.server import Recipe
    from memrecall_kv.serve.settings import ServeSettings

_HOST = "127.0.0.1"
_PORT = 8000

Banks = Annotated[
    list[Path], typer.Argument(metavar="BANK", help="Directories; one that is not there is made.", show_default=False)
]
KeyPath = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="Keys that may ask, made with key.", show_default=False),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Change no bank.")]
Defer = Annotated[bool, typer.Option("--defer", help="Store texts alone; a question compresses what it comes near.")]
Limits = Annotated[
    Path | None,
    typer.Option("--limits", metavar="FILE", help="Limits in JSON, as ServeSettings takes them.", show_default=False),
]


def serve(
    ctx: typer.Context,
    banks: Banks,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's need keys.")] = _HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 is any that is free.")] = _PORT,
    api_key_file: KeyPath = None,
    read_only: ReadOnly = False,
    defer: Defer = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a model; more than one only read.")] = 1,
    limits: Limits = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
) -> None:
    """Serve banks over HTTP: documents, questions, and what clients of OpenAI and of rerankers ask for.

    A bank is served under the name of its directory, without .bank. Clients name it as the model. SIGTERM or Ctrl-C
    ends what was begun and closes the banks. The log goes to standard error, one JSON object a line.
    """
    listen = _listener()
    recipe = _recipe(
        ctx, banks, api_key_file, model, device, dtype, config, host=host, read_only=read_only, defer=defer
    )
    listen(replace(recipe, settings=_limits(limits)), host=host, port=port, workers=workers)


def mcp(
    ctx: typer.Context,
    banks: Banks,
    http: Annotated[bool, typer.Option("--http", help="Serve over HTTP, at /mcp, all that serve does too.")] = False,
    host: Annotated[str, typer.Option(help="With --http: address to listen at; others need keys.")] = _HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --http: port to listen at.")] = _PORT,
    api_key_file: KeyPath = None,
    read_only: ReadOnly = False,
    defer: Defer = False,
    limits: Limits = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = None,
    config: ConfigFile = None,
) -> None:
    """Offer banks as tools of the Model Context Protocol: ask, recall, add, forget, list documents.

    A client starts the command and speaks over its standard input and output. The log goes to standard error.
    """
    listen = _listener()
    try:
        import mcp.server  # noqa: F401 - an extra
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"The protocol needs {error.name}, which is not installed.", 'pip install "memrecall-kv[mcp]"'
        ) from error
    recipe = _recipe(
        ctx, banks, api_key_file, model, device, dtype, config, host=host, read_only=read_only, defer=defer
    )
    recipe = replace(recipe, settings=_limits(limits), with_mcp=True)
    if http:
        listen(recipe, host=host, port=port, workers=1)
        return
    import anyio

    from memrecall_kv.serve.mcp import over_pipe

    anyio.run(partial(over_pipe, recipe.load, banks, read_only=read_only, defer=defer, settings=recipe.settings))


def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of keys; made if it is not there.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    bank: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BANK", help="Name of a bank it opens; may be repeated. All if left out.", show_default=False
        ),
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Forget the key.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key for a server, and print it: only its hash is kept. A server reads the file when it starts."""
    from memrecall_kv.serve.keys import KeyFile

    keys = KeyFile(file)
    if revoke:
        keys.revoke(name)
        typer.echo(json.dumps({"revoked": name}) if as_json else f"Revoked {show.safe(name)}.")
        return
    made = keys.add(name, bank or None)
    typer.echo(json.dumps({"name": name, "key": made}) if as_json else made)


def _listener() -> Callable[..., None]:
    try:
        from memrecall_kv.serve.server import serve as listen
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Serving needs {error.name}, which is not installed.", 'pip install "memrecall-kv[serve]"'
        ) from error
    return listen


def _recipe(
    ctx: typer.Context,
    banks: list[Path],
    key_file: Path | None,
    model: str | None,
    device: str,
    dtype: str | None,
    config: Path | None,
    *,
    host: str,
    read_only: bool,
    defer: bool,
) -> Recipe:
    """Return what is served, after a look at who may come in, and before anything is loaded."""
    from memrecall_kv.serve.server import Recipe, check_access
    from memrecall_kv.serve.settings import ServeSettings

    check_access(host, key_file)
    choice = Choice(model, device=device, dtype=dtype, config=config)
    made = next(filter(None, (made_with(bank, create=not read_only) for bank in banks)), {})
    load: Loader = ctx.obj
    return Recipe(
        load=partial(load, model, config=choice.settings(made), device=device, dtype=dtype or "auto"),
        banks=tuple(banks),
        key_file=key_file,
        read_only=read_only,
        defer=defer,
        settings=ServeSettings(),
        prepare=log_in_json,
    )


def log_in_json() -> None:
    """Log to standard error, one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _JsonLines(logging.Formatter):
    """Formats records as JSON. Of an error its kind and its places in the code are told, not what it says."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        fields |= {"message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[0]:
            places = traceback.extract_tb(record.exc_info[2])
            fields["error"] = record.exc_info[0].__name__
            fields["at"] = [f"{place.filename}:{place.lineno} {place.name}" for place in places]
        return json.dumps(fields)


def _limits(file: Path | None) -> ServeSettings:
    from memrecall_kv.serve.settings import ServeSettings

    return ServeSettings(**(read_settings(file) if file else {}))
