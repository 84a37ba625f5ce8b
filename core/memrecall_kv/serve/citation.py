"""Where an answer comes from, in the two forms that OpenAI's clients and people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, JsonValue

from memrecall_kv.ingest.places import place_of
from memrecall_kv.types import Answer, Recall


class Citation(BaseModel):
    """A span of a document that an answer rests on.

    Attributes:
        document: The document's id.
        start: First character of the span.
        end: The character after its last.
        text: The span.
        relevance: What the gate thought of it, in [0, 1].
        place: Page, line, row or slide, if the document's metadata say.
        url: Where the document can be read: a path on this server, and the span as RFC 5147 writes it.
        metadata: The document's.
    """

    document: str
    start: int
    end: int
    text: str
    relevance: float
    place: str
    url: str
    metadata: dict[str, JsonValue]


def citations(bank: str, recalls: Sequence[Recall]) -> list[Citation]:
    """Return what was opened, in the order it was opened."""
    return [
        Citation(
            document=recall.chunk.doc_id,
            start=recall.chunk.start,
            end=recall.chunk.end,
            text=recall.text,
            relevance=recall.gate_probability,
            place=place_of(recall.metadata, recall.chunk.start, recall.chunk.end),
            url=f"/v1/banks/{quote(bank)}/documents?id={quote(recall.chunk.doc_id, safe='')}"
            f"#char={recall.chunk.start},{recall.chunk.end}",
            metadata=dict(recall.metadata),
        )
        for recall in recalls
    ]


def url_citations(bank: str, answer: Answer) -> list[dict[str, Any]]:
    """Return citations of the whole answer as the Responses API has them; without an answer there are none."""
    if not answer.found:
        return []
    return [
        {
            "type": "url_citation",
            "url": each.url,
            "title": ", ".join(filter(None, (each.document, each.place))),
            "start_index": 0,
            "end_index": len(answer.text),
        }
        for each in citations(bank, answer.evidence)
    ]
