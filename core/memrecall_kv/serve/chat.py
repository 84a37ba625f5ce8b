"""OpenAI's chat completions: a bank by the name of a model, and its citations as annotations."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, StrictBool

from memrecall_kv.serve.asking import answer_of
from memrecall_kv.serve.citation import Citation, citations, url_citations
from memrecall_kv.serve.conversation import Conversation, Messages, question_of
from memrecall_kv.serve.service import Asker, Parts
from memrecall_kv.serve.stream import STREAMED, event, gathered, streamed, while_connected
from memrecall_kv.types import Answer, Done, Event, Token

router = APIRouter(prefix="/v1", tags=["openai"])


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: StrictBool | None = False


class ResponseFormat(BaseModel):
    """Answers are text."""

    type: Literal["text"] = "text"


class Completing(Conversation):
    """A request for a chat completion."""

    messages: Messages
    n: Literal[1] | None = None
    response_format: ResponseFormat | None = None
    stream_options: StreamOptions | None = None


class UrlCitation(BaseModel):
    """A part of an answer, and what it rests on."""

    url: str
    title: str
    start_index: int
    end_index: int


class Annotation(BaseModel):
    """A citation in OpenAI's form."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class Written(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class Choice(BaseModel):
    """The one answer there is."""

    index: Literal[0] = 0
    message: Written
    finish_reason: Literal["stop"] = "stop"
    logprobs: None = None


class TokenCounts(BaseModel):
    """What the answer cost; memory tokens that were read count as prompt."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A chat completion.

    Attributes:
        citations: Of ours: the spans of text that the answer rests on.
        found: Of ours: whether the bank holds the answer.
        grounded: Of ours: whether what the answer says stands in the cited texts.
    """

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: TokenCounts
    citations: list[Citation]
    found: bool
    grounded: bool


class Model(BaseModel):
    """A bank as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["memrecall-kv"] = "memrecall-kv"


class Models(BaseModel):
    """The banks that a key opens."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/models")
async def list_models(service: Parts, caller: Asker) -> Models:
    """List the banks you may use, as models."""
    return Models(data=[Model(id=name, created=service.started) for name in service.names(caller)])


@router.get("/models/{model}")
async def show_model(model: str, service: Parts, caller: Asker) -> Model:
    """Show a bank as a model."""
    service.bank(model, caller)
    return Model(id=model, created=service.started)


@router.post("/chat/completions", response_model=Completion, responses=STREAMED)
async def complete(body: Completing, service: Parts, caller: Asker, request: Request) -> Completion | Response:
    """Answer the last message from the bank that is named as the model."""
    events = service.questions.ask(question_of(body, body.messages, service, caller))
    if body.stream:
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        chunks = Chunks(body.model, with_usage=with_usage)
        return await streamed(request, service, events, chunks.tell, event("[DONE]"))
    answer = answer_of(await while_connected(request, gathered(events)))
    written = Written(content=answer.text, annotations=chat_annotations(body.model, answer))
    return Completion(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=body.model,
        choices=[Choice(message=written)],
        usage=counted(answer),
        citations=cited(body.model, answer),
        found=answer.found,
        grounded=answer.grounded,
    )


class Chunks:
    """Tells an answer in chunks: its text, then the citations in a chunk of their own, then the end.

    Args:
        model: The bank's name.
        with_usage: Whether a last chunk says what it cost.
    """

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self._model, self._with_usage = model, with_usage
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._has_begun = False

    def tell(self, happened: Event) -> Iterator[str]:
        """Yield the chunks that tell an event."""
        if isinstance(happened, Token):
            role = {} if self._has_begun else {"role": "assistant"}
            self._has_begun = True
            yield self._chunk({**role, "content": happened.text})
        elif isinstance(happened, Done):
            answer = happened.answer
            marked = [each.model_dump() for each in chat_annotations(self._model, answer)]
            told = [each.model_dump() for each in cited(self._model, answer)]
            facts: dict[str, Any] = {"citations": told, "found": answer.found, "grounded": answer.grounded}
            yield self._chunk({"annotations": marked}, **facts)
            yield self._chunk({}, "stop")
            if self._with_usage:
                yield event({**self._head, "choices": [], "usage": counted(answer).model_dump()})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head, "choices": [choice], **more})


def chat_annotations(bank: str, answer: Answer) -> list[Annotation]:
    """Return citations as the messages of chat completions have them."""
    return [
        Annotation(url_citation=UrlCitation(**{name: each[name] for name in UrlCitation.model_fields}))
        for each in url_citations(bank, answer)
    ]


def cited(bank: str, answer: Answer) -> list[Citation]:
    """Return what an answer rests on; nothing if there is none."""
    return citations(bank, answer.evidence) if answer.found else []


def counted(answer: Answer) -> TokenCounts:
    """Return what an answer cost."""
    read = answer.usage.prompt_tokens + answer.usage.memory_tokens_read
    written = answer.usage.generated_tokens
    return TokenCounts(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
