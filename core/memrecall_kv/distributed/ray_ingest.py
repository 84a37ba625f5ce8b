"""Ingest by Ray Data: each shard is a row, each actor of the pool writes one shard at a time."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memrecall_kv.bank.shards import shard_of
from memrecall_kv.config import check_count
from memrecall_kv.distributed.shard_writer import Row, ShardWriter, identified, raised, to_row
from memrecall_kv.distributed.storage import ShardStorage
from memrecall_kv.errors import InputError, MissingDependencyError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.types import Document, IngestReport


def ingest_ray(
    documents: Any,
    path: str | Path,
    *,
    shards: int,
    load: Callable[[], MemRecall] = MemRecall.from_pretrained,
    workers: int | None = None,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
) -> IngestReport:
    """Compress documents into the shards of a bank, each written by one of Ray's actors.

    A document belongs to the shard that its id says. Interrupt at will, and lose workers: Ray starts another one, and
    what a shard holds already is left as it is. The same call again adds what is missing; with other documents it adds
    those. All texts pass through this process: give many in several calls.

    Args:
        documents: A `ray.data.Dataset` with a column `text` and any of `id`, `metadata` (a mapping or JSON), `judged`
            and `read`, which are those of a heading; or `Document`s. One without an id gets a hash of what it holds.
        path: A directory that all workers reach, or a URL of fsspec's. Behind a URL a shard is changed as a whole: one
            whose worker dies is begun again from what was there before.
        shards: How many; those of a bank that is there stay as many.
        load: Makes a worker's pipeline; `functools.partial(MemRecall.from_pretrained, ...)` names another one.
        workers: Actors at once; `None` for as many as there is room for.
        num_cpus: Processors that each of them takes.
        num_gpus: Accelerators that each of them takes.

    Returns:
        What was done in all shards together.

    Raises:
        BankError: If a shard cannot be written; the others are.
        InputError: If documents differ under one id, or there is a bank of another number of shards.
        MissingDependencyError: If the extra `ray` is not installed.
    """
    started = time.perf_counter()
    data = _ray_data()
    check_count("shards", shards)
    found = ShardStorage(path).count()
    if found not in (None, shards):
        raise InputError(f"Expected shards={found}, as {path} has, got {shards}.", "Give as many, or another place.")
    rows = by_shard(documents.iter_rows() if isinstance(documents, data.Dataset) else documents, shards)
    numbered = [{"shard": number, "documents": its} for number, its in enumerate(rows)]
    size = {"min_size": 1, "max_size": shards} if check_count("workers", workers) is None else {"size": workers}
    place = str(path) if "://" in str(path) else Path(path).absolute()
    writing = data.from_items(numbered, override_num_blocks=shards).map_batches(
        ShardWriter,
        fn_constructor_kwargs={"load": load, "path": place, "shards": shards},
        batch_size=1,
        batch_format="pyarrow",
        # a second shard would wait in the first worker's queue while another worker starts
        compute=data.ActorPoolStrategy(**size, max_tasks_in_flight_per_actor=1),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
    )
    return _together(writing.take_all(), time.perf_counter() - started)


def by_shard(documents: Iterable[Document | Mapping[str, Any]], shards: int) -> list[list[Row]]:
    """Return the rows of each shard; a document that comes again is there once.

    Raises:
        InputError: If two differ and share an id, or one is none.
    """
    kept: dict[str, Document] = {}
    for document in map(identified, documents):
        if kept.setdefault(document.id, document) != document:
            raise InputError(
                f"Expected ids to be unique, got different documents under the id {document.id!r}.",
                "Give each document an id of its own.",
            )
    rows: list[list[Row]] = [[] for _ in range(shards)]
    for document in kept.values():
        rows[shard_of(document.id, shards)].append(to_row(document))
    return rows


def _together(reports: Iterable[Mapping[str, Any]], seconds: float) -> IngestReport:
    """Return the workers' reports as one; raises what a worker told of."""
    sums: dict[str, Any] = dict.fromkeys(asdict(IngestReport()), 0)
    for report in reports:
        if report["failure"]:
            raise raised(report["failure"])
        sums = {name: sum_ + report[name] for name, sum_ in sums.items()}
    return IngestReport(**{**sums, "seconds": seconds})


def _ray_data() -> Any:
    try:
        return importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingDependencyError("Ray Data is not installed.", 'Run: pip install "memrecall-kv[ray]"') from error
