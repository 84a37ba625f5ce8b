"""A process, or several, that listens until it is told to stop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from memrecall_kv.errors import ConfigError, MemRecallError
from memrecall_kv.serve.app import LOOPBACK, build_app
from memrecall_kv.serve.keys import KeyFile
from memrecall_kv.serve.settings import ServeSettings
from memrecall_kv.serve.shelf import bank_names

if TYPE_CHECKING:  # imports torch
    from memrecall_kv.pipeline import MemRecall

logger = logging.getLogger(__name__)

_MOST_CONNECTIONS = 1024
_LOADING_SECONDS = 600
"""A worker that does not answer for so long is replaced; while it loads a model it does not."""


@dataclass(frozen=True)
class Recipe:
    """What a process needs to make an app of its own; can be sent to another one.

    Attributes:
        load: Loads the pipeline.
        banks: Directories.
        key_file: Of API keys; `None` to let everybody in.
        read_only: Whether no bank may be changed.
        defer: Whether only texts are stored, and a question compresses what it comes near.
        settings: Limits.
        prepare: Sets up the process, such as its log.
        with_mcp: Whether the Model Context Protocol is spoken too.
    """

    load: Callable[[], MemRecall]
    banks: tuple[Path, ...]
    key_file: Path | None
    read_only: bool
    defer: bool
    settings: ServeSettings
    prepare: Callable[[], None]
    with_mcp: bool = False

    def app(self) -> FastAPI:
        """Return the app.

        Raises:
            MemRecallError: If something of it cannot be read or opened.
        """
        keys = None if self.key_file is None else KeyFile(self.key_file)
        return build_app(
            self.load(),
            self.banks,
            keys=keys,
            read_only=self.read_only,
            defer=self.defer,
            settings=self.settings,
            with_mcp=self.with_mcp,
        )

    def __call__(self) -> FastAPI:
        """Return the app of one worker among several; what goes wrong here would go wrong in the next one too."""
        self.prepare()
        try:
            return self.app()
        except MemRecallError as error:
            logger.error("%s", error)
            raise SystemExit(STARTUP_FAILURE) from error


def serve(recipe: Recipe, *, host: str, port: int, workers: int) -> None:
    """Listen until SIGINT or SIGTERM; then end what was begun, close the banks, and return.

    Args:
        recipe: What is served.
        host: To listen at.
        port: To listen at; 0 for any that is free.
        workers: Processes.

    Raises:
        ConfigError: If the host is open to others and there are no keys, or several processes were to write.
        MemRecallError: If something cannot be read or opened.
    """
    check_access(host, recipe.key_file)
    if workers > 1 and not recipe.read_only:
        raise ConfigError(
            f"Expected one worker, got {workers}: a bank has one writer, and a job is known to the process it runs in.",
            "Add --read-only for more workers, and change the banks by another server or the command line.",
        )
    names = ", ".join(bank_names(recipe.banks))
    with _bound(host, port) as listener:
        app = recipe if workers > 1 else recipe.app()
        config = _config(app, recipe, workers)
        recipe.prepare()
        logger.info("running on http://%s:%d with %s", host, listener.getsockname()[1], names)
        if workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            _Server(config).run(sockets=[listener])


def check_access(host: str, key_file: Path | None) -> None:
    """Refuse to let everybody in where others can reach.

    Raises:
        ConfigError: If there are no keys and the host is not this machine alone.
    """
    if key_file is None and host not in LOOPBACK:
        raise ConfigError(
            f"Expected API keys, since {host!r} can be reached from other machines.",
            "Make one with: memrecall-kv key keys.json NAME, and add --api-key-file keys.json.",
        )
    if key_file is not None and not len(KeyFile(key_file)):
        raise ConfigError(f"Expected keys in {key_file}, got none.", f"Make one: memrecall-kv key {key_file} NAME.")


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the jobs first: who follows one would wait for its end."""
        app: FastAPI = self.config.app  # type: ignore[assignment]  # it is the one given
        app.state.service.jobs.stop()
        await super().shutdown(sockets)


def _bound(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen at {host} port {port}: {error.strerror}.", "Choose another --port or --host."
        ) from error


def _config(app: FastAPI | Callable[[], FastAPI], recipe: Recipe, workers: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=app is recipe,
        workers=workers,
        log_config=None,
        access_log=False,  # it would hold paths, and with them what clients wrote
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_worker_healthcheck=_LOADING_SECONDS,
        timeout_graceful_shutdown=recipe.settings.shutdown_seconds,
    )
