"""OpenAI's Responses: the same answers as chat completions, in the newer form."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from memrecall_kv.serve.asking import answer_of
from memrecall_kv.serve.chat import cited, counted
from memrecall_kv.serve.citation import Citation, url_citations
from memrecall_kv.serve.conversation import Conversation, Message, Messages, question_of
from memrecall_kv.serve.service import Asker, Parts
from memrecall_kv.serve.stream import STREAMED, event, gathered, streamed, while_connected
from memrecall_kv.types import Answer, Done, Event, Token

router = APIRouter(prefix="/v1", tags=["openai"])


class Responding(Conversation):
    """A request for a response.

    Attributes:
        input: The question, or messages of which it is the last.
        previous_response_id: None: what was said before is sent again, nothing is kept.
    """

    input: str | Messages
    previous_response_id: None = None

    @property
    def messages(self) -> list[Message]:
        """Return the input as messages."""
        return [Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input


class UrlCitation(BaseModel):
    """A citation in OpenAI's form."""

    type: Literal["url_citation"] = "url_citation"
    url: str
    title: str
    start_index: int
    end_index: int


class OutputText(BaseModel):
    """The answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[UrlCitation] = []
    logprobs: list[float] = []


class OutputMessage(BaseModel):
    """The answer's message."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed"]
    content: list[OutputText] = []


class InputDetails(BaseModel):
    """What of the input was there before."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """What of the output is not shown."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """What the answer cost; memory tokens that were read count as input."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class Responded(BaseModel):
    """A response; `citations`, `found` and `grounded` as in a chat completion."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    model: str
    status: Literal["in_progress", "completed"]
    output: list[OutputMessage] = []
    parallel_tool_calls: bool = False
    tool_choice: Literal["none"] = "none"
    tools: list[str] = []
    usage: ResponseUsage | None = None
    citations: list[Citation] = []
    found: bool = False
    grounded: bool = False
    error: None = None
    incomplete_details: None = None
    metadata: dict[str, str] = Field(default={})


@router.post("/responses", response_model=Responded, responses=STREAMED)
async def respond(body: Responding, service: Parts, caller: Asker, request: Request) -> Responded | Response:
    """Answer the input from the bank that is named as the model."""
    events = service.questions.ask(question_of(body, body.messages, service, caller))
    told = Telling(body.model)
    if body.stream:
        return await streamed(request, service, events, told.tell)
    return told.completed(answer_of(await while_connected(request, gathered(events))))


class Telling:
    """Tells an answer in the events of a response.

    Args:
        model: The bank's name.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._id, self._item = f"resp_{secrets.token_hex(12)}", f"msg_{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._number = 0

    def tell(self, happened: Event) -> Iterator[str]:
        """Yield the events that tell one of ours."""
        if not self._number:
            yield from self._begin()
        if isinstance(happened, Token):
            yield self._part("response.output_text.delta", delta=happened.text, logprobs=[])
        elif isinstance(happened, Done):
            yield from self._end(self.completed(happened.answer))

    def completed(self, answer: Answer) -> Responded:
        """Return the whole response."""
        marked = [UrlCitation(**each) for each in url_citations(self._model, answer)]
        message = OutputMessage(
            id=self._item, status="completed", content=[OutputText(text=answer.text, annotations=marked)]
        )
        counts = counted(answer)
        return self._begun().model_copy(
            update={
                "status": "completed",
                "output": [message],
                "usage": ResponseUsage(
                    input_tokens=counts.prompt_tokens,
                    output_tokens=counts.completion_tokens,
                    total_tokens=counts.total_tokens,
                ),
                "citations": cited(self._model, answer),
                "found": answer.found,
                "grounded": answer.grounded,
            }
        )

    def _begun(self) -> Responded:
        return Responded(id=self._id, created_at=self._created, model=self._model, status="in_progress")

    def _begin(self) -> Iterator[str]:
        response = self._begun().model_dump()
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)
        item = OutputMessage(id=self._item, status="in_progress").model_dump()
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._part("response.content_part.added", part=OutputText(text="").model_dump())

    def _end(self, response: Responded) -> Iterator[str]:
        (item,) = response.output
        (part,) = item.content
        for index, mark in enumerate(part.annotations):
            added = mark.model_dump()
            yield self._part("response.output_text.annotation.added", annotation_index=index, annotation=added)
        yield self._part("response.output_text.done", text=part.text, logprobs=[])
        yield self._part("response.content_part.done", part=part.model_dump())
        yield self._event("response.output_item.done", output_index=0, item=item.model_dump())
        yield self._event("response.completed", response=response.model_dump())

    def _part(self, kind: str, **fields: Any) -> str:
        return self._event(kind, item_id=self._item, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **fields}, kind)
