"""Documents as one long text in pieces of a fixed number of tokens, without ever holding all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.types import Document

ROOM = 256
"""Tokens of the window that are left for the question and the form of a request."""


def windows(documents: Iterable[Document], backbone: Backbone, num_tokens: int) -> Iterator[list[int]]:
    """Yield the token ids of the numbered documents, `num_tokens` at a time; the last piece may be shorter."""
    waiting: list[int] = []
    for ids in _numbered(documents, backbone):
        waiting += ids
        while len(waiting) >= num_tokens:
            yield waiting[:num_tokens]
            del waiting[:num_tokens]
    if waiting:
        yield waiting


def ends(documents: Iterable[Document], backbone: Backbone, num_tokens: int) -> list[int]:
    """Return the first and the last tokens of the numbered documents, cut in the middle to fit."""
    head: list[int] = []
    tail: deque[int] = deque(maxlen=num_tokens - num_tokens // 2)
    for ids in _numbered(documents, backbone):
        room = num_tokens // 2 - len(head)
        head += ids[:room]
        tail.extend(ids[room:])
    return [*head, *tail]


def _numbered(documents: Iterable[Document], backbone: Backbone) -> Iterator[list[int]]:
    for number, document in enumerate(documents, start=1):
        yield backbone.encode(f"Document {number}:\n{document.text}\n\n")
