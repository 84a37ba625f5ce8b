"""What a client may do to a bank, as work for `jobs.py`; the routes and the tools share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from memrecall_kv.hosts.arguments import distinct
from memrecall_kv.hosts.lazy import LazyBank
from memrecall_kv.serve.jobs import BankWork, Job, Kind
from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.serve.service import Service
from memrecall_kv.types import Progress

if TYPE_CHECKING:
    from memrecall_kv.serve.documents import NewDocument


def add(service: Service, documents: Iterable[NewDocument]) -> BankWork:
    """Return the work of adding documents, or of replacing those of the same ids.

    Raises:
        InputError: If one cannot be kept, or two share an id.
    """
    checked = distinct(each.checked() for each in documents)

    def work(held: LazyBank, progress: Progress) -> Mapping[str, Any]:
        with held.writing() as writable:
            report = service.memory.ingest(writable, checked, defer=service.shelf.defer, progress=progress)
        return {"report": report}

    return work


def delete(ids: Iterable[str]) -> BankWork:
    """Return the work of deleting documents: all of them, or none if one is not there."""
    wanted = sorted(frozenset(ids))

    def work(held: LazyBank, progress: Progress) -> Mapping[str, Any]:
        with held.writing() as writable:
            writable.delete_many(wanted)
        return {"deleted": len(wanted)}

    return work


def compact(held: LazyBank, progress: Progress) -> Mapping[str, Any]:
    """Rewrite a bank without what was deleted."""
    with held.writing() as writable:
        return {"freed_bytes": writable.compact()}


def submit(service: Service, kind: Kind, name: str, held: LazyBank, work: BankWork) -> Job:
    """Take a change on.

    Raises:
        RefusedError: If the server only reads, or too many changes wait.
    """
    if service.shelf.read_only:
        raise RefusedError(
            405,
            "Expected a server that may change its banks; this one only reads.",
            "Start one without --read-only.",
            {"Allow": "GET"},
        )
    return service.jobs.submit(kind, name, lambda progress: work(held, progress))
