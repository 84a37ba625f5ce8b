"""A reranker in the form of Cohere's and Jina's: texts in the order in which they matter to a query."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictBool

from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.hosts.lazy import LazyMemory
from memrecall_kv.serve.service import Asker, Parts
from memrecall_kv.serve.stream import gathered, while_connected

if TYPE_CHECKING:  # imports torch
    from memrecall_kv.pipeline import MemRecall

router = APIRouter(prefix="/v1", tags=["rerank"])

_MOST = 1000


class Text(BaseModel):
    """A text."""

    text: str


class Reranking(BaseModel):
    """Texts to be put in order. What is not listed here is accepted and makes no difference.

    Attributes:
        model: Said again in the answer; there is one.
        query: What they are to matter to.
        documents: The texts.
        top_n: How many to return, the best first; all if left out.
        return_documents: Return the texts too.
    """

    model: str = "memrecall-kv"
    query: str = Field(min_length=1)
    documents: list[str | Text] = Field(min_length=1, max_length=_MOST)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: StrictBool | None = False


class Ranked(BaseModel):
    """A text's place among those that were sent, and how much it matters, in [0, 1]."""

    index: int
    relevance_score: float
    document: Text | None = None


class Spent(BaseModel):
    """Tokens that were read."""

    total_tokens: int


class Reranked(BaseModel):
    """The texts that matter most, the best first."""

    id: str
    model: str
    results: list[Ranked]
    usage: Spent


@router.post("/rerank")
async def rerank(body: Reranking, service: Parts, caller: Asker, request: Request) -> Reranked:
    """Put texts in the order in which they matter to a query; nothing of them is kept."""
    texts = [each.text if isinstance(each, Text) else each for each in body.documents]
    work = service.questions.run(lambda: scored(service.memory, body.query, texts))
    ((scores, tokens),) = await while_connected(request, gathered(work))
    order = sorted(range(len(texts)), key=lambda index: (-scores[index], index))[: body.top_n]
    return Reranked(
        id=secrets.token_hex(12),
        model=body.model,
        results=[
            Ranked(
                index=index,
                relevance_score=scores[index],
                document=Text(text=texts[index]) if body.return_documents else None,
            )
            for index in order
        ],
        usage=Spent(total_tokens=tokens),
    )


def scored(
    memory: MemRecall, query: str, texts: Sequence[str]
) -> Generator[tuple[list[float], int] | None, None, None]:
    """Yield how much each text matters, and the tokens that were read; `None` between two steps.

    A text matters as much as its best chunk does, each judged by itself. One without letters does not matter.
    """
    entries = {text: TextCache.entry(text) for text in texts if text and not text.isspace()}
    best: dict[str, float] = {}
    # a cache of its own: nobody learns, not even by the clock, what somebody else has sent
    with closing(TextCache(None, LazyMemory(memory, None, "auto"))) as cache:
        bank, where = cache.keep(entries.values())
        relevance = memory.begin(bank, query, top_k=max(1, len(bank)), where=where).relevance
        chunks = relevance.closed(())
        step = memory.config.gate.batch_size
        for start in range(0, len(chunks), step):
            part = chunks[start : start + step]
            for chunk_id, score in zip(part, relevance.score(part), strict=True):
                doc_id = relevance.chunk(chunk_id).doc_id
                best[doc_id] = max(best.get(doc_id, 0.0), score)
            yield None
        tokens = bank.stats().source_tokens
    yield [best.get(entries[text].id, 0.0) if text in entries else 0.0 for text in texts], tokens
