"""Routes to evidence and answers, in this library's own words: what comes back has the form of its Python values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, TypeAdapter

from memrecall_kv.recall.follow_up import Turn
from memrecall_kv.serve.keys import Caller
from memrecall_kv.serve.question import Question
from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.serve.service import Asker, Parts, Service
from memrecall_kv.serve.stream import STREAMED, event, gathered, streamed, while_connected
from memrecall_kv.serve.where import JsonFilter, to_filter
from memrecall_kv.types import Answer, Done, Event, Opened, Recall

T = TypeVar("T")

router = APIRouter(prefix="/v1", tags=["questions"])

TopK = Annotated[int, Field(ge=1, le=1000, description="Open exactly this many blocks.")]
TopN = Annotated[int, Field(ge=1, le=1000, description="Find exactly this many documents.")]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Recalling(_Strict):
    """A question to a bank.

    Attributes:
        bank: Its name.
        question: What is asked.
        top_k: Open exactly this many blocks, whatever the settings say.
        where: Recall only chunks of documents that match.
        stream: Send what happens as server-sent events, the last one `done` with the answer.
    """

    bank: str
    question: str = Field(min_length=1)
    top_k: TopK | None = None
    where: JsonFilter | None = None
    stream: StrictBool = False


class Finding(Recalling):
    """A question that is not to be answered.

    Attributes:
        top_n: Find exactly so many documents, of each the chunk that is opened first; instead of `top_k`.
    """

    top_n: TopN | None = None


class Said(_Strict):
    """A question that was asked before, and its answer; an empty one if there was none."""

    question: str
    answer: str = ""


class Asking(Recalling):
    """A question that is to be answered.

    Attributes:
        turns: What was said before; the question may refer to it.
    """

    turns: list[Said] = Field(default=[], max_length=100)


class Recalled(BaseModel):
    """What a question opens, in the order it was opened."""

    recalls: list[Recall]


@router.post("/recall", response_model=Recalled, responses=STREAMED)
async def recall(body: Finding, service: Parts, caller: Asker, request: Request) -> Recalled | Response:
    """Return the chunks that a question opens, without an answer; that of the event `done` is empty."""
    if body.top_k is not None and body.top_n is not None:
        raise RefusedError(422, "Expected top_k or top_n, got both.", "Leave one out.")
    asked = question_from(body, service, caller)
    events = service.questions.ask(replace(asked, is_answered=False, top_n=body.top_n))
    if body.stream:
        return await streamed(request, service, events, _told)
    found = await while_connected(request, gathered(events))
    return Recalled(recalls=[each.recall for each in found if isinstance(each, Opened)])


@router.post("/ask", response_model=Answer, responses=STREAMED)
async def ask(body: Asking, service: Parts, caller: Asker, request: Request) -> Answer | Response:
    """Answer a question from a bank, with the spans of text that the answer rests on."""
    question = question_from(body, service, caller, turns=[Turn(said.question, said.answer) for said in body.turns])
    events = service.questions.ask(question)
    if body.stream:
        return await streamed(request, service, events, _told)
    return answer_of(await while_connected(request, gathered(events)))


def answer_of(events: list[Event]) -> Answer:
    """Return the answer that a question's events end with."""
    last = events[-1]
    if not isinstance(last, Done):
        raise TypeError("the last event of a stream is Done")
    return last.answer


def question_from(body: Recalling, service: Service, caller: Caller, *, turns: Sequence[Turn] = ()) -> Question:
    """Return the question that a request puts.

    Raises:
        RefusedError: If the caller may not use its bank, or there is none.
    """
    where = None if body.where is None else to_filter(body.where)
    return Question(service.bank(body.bank, caller), body.question, turns, body.top_k, where)


def _told(happened: Event) -> Iterator[str]:
    yield event(_EVENT.dump_json(happened).decode(), type(happened).__name__.lower())
