"""Routes to banks, their documents, and the jobs that change them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from memrecall_kv.bank.metadata import storable
from memrecall_kv.serve import changes
from memrecall_kv.serve.jobs import BankWork, Job, Kind
from memrecall_kv.serve.keys import Caller
from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.serve.service import Asker, Parts, Service
from memrecall_kv.serve.stream import STREAMED, event, streamed
from memrecall_kv.types import BankStats, Document, Heading

router = APIRouter(prefix="/v1", tags=["banks"])

_MOST = 1000
"""Documents of one request."""
_JOB = TypeAdapter(Job)

Name = Annotated[str, Path(description="Of a bank, as GET /v1/banks shows it.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewHeading(_Strict):
    """What models see in front of a document's text, and no citation holds."""

    judged: str = ""
    read: str = ""


class NewDocument(_Strict):
    """A text under an id."""

    id: str = Field(min_length=1, max_length=1024)
    text: str = Field(min_length=1)
    metadata: dict[str, JsonValue] = {}
    heading: NewHeading = NewHeading()

    def checked(self) -> Document:
        """Return it as a bank keeps it.

        Raises:
            InputError: If a bank cannot keep it.
        """
        if self.text.isspace():
            raise RefusedError(422, f"Expected document {self.id!r} to have a text, got white space.", "Leave it out.")
        heading = Heading(self.heading.judged, self.heading.read)
        return storable(Document(self.id, self.text, self.metadata, heading))


class NewDocuments(_Strict):
    """Documents to add, or to put in place of those of the same ids."""

    documents: list[NewDocument] = Field(min_length=1, max_length=_MOST)


class Reader(BaseModel):
    """What a bank is read with, as far as its answers tell of it."""

    backbone: str
    not_found: str
    readback: str
    threshold: float


class Bank(BaseModel):
    """A bank, how much is in it, and what reads it."""

    name: str
    stats: BankStats
    reader: Reader


class Banks(BaseModel):
    """The banks that a key opens."""

    banks: list[Bank]


class Listed(BaseModel):
    """A document in a bank; its text and heading where it was asked for by id."""

    id: str
    metadata: dict[str, JsonValue]
    text: str | None = None
    heading: Heading | None = None


class Documents(BaseModel):
    """Some of a bank's documents.

    Attributes:
        documents: In the bank's order.
        next: What `after` must be to see the next ones; nothing if these were the last.
    """

    documents: list[Listed]
    next: int | None = None


@router.get("/banks")
def list_banks(service: Parts, caller: Asker) -> Banks:
    """List the banks you may use."""
    return Banks(banks=[_shown(service, name) for name in service.names(caller)])


@router.get("/banks/{bank}")
def show_bank(bank: Name, service: Parts, caller: Asker) -> Bank:
    """Show how much is in a bank."""
    service.bank(bank, caller)
    return _shown(service, bank)


@router.get("/banks/{bank}/documents")
def list_documents(
    bank: Name,
    service: Parts,
    caller: Asker,
    id: Annotated[list[str], Query(max_length=_MOST, description="Show these, with their texts.")] = [],  # noqa: B006 - FastAPI copies it
    after: Annotated[int, Query(ge=0, le=2**31, description="Pass over so many.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
) -> Documents:
    """List a bank's documents, or show some of them."""
    opened = service.bank(bank, caller).get()
    if id:
        unknown = [each for each in id if each not in opened]
        if unknown:
            raise RefusedError(404, f"There is no document {unknown[0]!r} in {bank}.", "List them without id.")
        found = [opened.document(each) for each in id]
        return Documents(
            documents=[
                Listed(id=one.id, metadata=dict(one.metadata), text=one.text, heading=one.heading) for one in found
            ]
        )
    ids = opened.ids()
    page = ids[after : after + limit]
    return Documents(
        documents=[Listed(id=each, metadata=dict(opened.metadata(each))) for each in page if each in opened],
        next=after + limit if after + limit < len(ids) else None,
    )


@router.post("/banks/{bank}/documents", status_code=202)
async def add_documents(bank: Name, body: NewDocuments, service: Parts, caller: Asker, response: Response) -> Job:
    """Add documents, or replace those of the same ids; what the bank holds already is skipped.

    A document is in the bank, for good, when its job is done. The same request again goes on where one stopped.
    """
    return _submit(service, caller, "add", bank, changes.add(service, body.documents), response)


@router.delete("/banks/{bank}/documents", status_code=202)
async def delete_documents(
    bank: Name,
    id: Annotated[list[str], Query(min_length=1, max_length=_MOST, description="Of a document; may be repeated.")],
    service: Parts,
    caller: Asker,
    response: Response,
) -> Job:
    """Delete documents: all of them, or none if one is not there. Their blocks' bytes go with the next compact."""
    return _submit(service, caller, "delete", bank, changes.delete(id), response)


@router.post("/banks/{bank}/compact", status_code=202)
async def compact(bank: Name, service: Parts, caller: Asker, response: Response) -> Job:
    """Rewrite a bank without what was deleted."""
    return _submit(service, caller, "compact", bank, changes.compact, response)


@router.get("/jobs/{job}")
async def show_job(job: str, service: Parts, caller: Asker) -> Job:
    """Show how a change stands."""
    return service.job(job, caller)


@router.get("/jobs/{job}/events", response_class=StreamingResponse, responses=STREAMED)
async def follow_job(job: str, service: Parts, caller: Asker, request: Request) -> StreamingResponse:
    """Follow a change until it is over: server-sent events, each named after the state and holding the whole job."""
    found = service.job(job, caller)
    return await streamed(request, service, service.jobs.follow(found.id), _told)


def _submit(service: Service, caller: Caller, kind: Kind, name: str, work: BankWork, response: Response) -> Job:
    job = changes.submit(service, kind, name, service.bank(name, caller), work)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


def _told(job: Job) -> Iterator[str]:
    yield event(_JOB.dump_json(job).decode(), job.state)


def _shown(service: Service, name: str) -> Bank:
    config = service.memory.config
    reader = Reader(
        backbone=service.memory.backbone.name,
        not_found=config.reasoner.not_found,
        readback=config.reasoner.readback,
        threshold=config.gate.threshold,
    )
    return Bank(name=name, stats=service.shelf[name].get().stats(), reader=reader)
