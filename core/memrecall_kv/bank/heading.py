"""The stored form of a document's heading."""

from __future__ import annotations

import json

from memrecall_kv.types import NO_HEADING, Heading


def packed(given: Heading, used: Heading) -> str:
    """Return a heading as text: nothing for none, else JSON of what is judged and read.

    Args:
        given: The document's.
        used: Its chunks', added if it was cut.
    """
    if given == NO_HEADING:
        return ""
    texts = [given.judged, given.read, *([] if used == given else [used.judged, used.read])]
    return json.dumps(texts, ensure_ascii=False)


def unpacked(stored: str) -> tuple[Heading, Heading]:
    """Return the document's heading and its chunks'.

    Raises:
        ValueError: If the text is none that `packed` returns.
    """
    texts = json.loads(stored) if stored else ["", ""]
    if not isinstance(texts, list) or len(texts) not in (2, 4) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a heading is no list of texts")
    return Heading(*texts[:2]), Heading(*texts[-2:])
