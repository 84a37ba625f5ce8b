"""Questions as people ask them: 138 of our own about twelve texts of our own, which no model can have read.

A handbook, a country page, a speech, instructions, minutes, a contract, and six short texts in other languages. Half
of the questions is there to look at while something is made better, the other half is kept for the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.question import Context, Question, Stream, document_id
from memrecall_kv.evaluate.rows import sample
from memrecall_kv.evaluate.settings import TaskConfig


def everyday(folder: Path | None, config: TaskConfig, *, kept: bool = False) -> Iterator[Context]:
    """Yield one context, of all texts or of the first ones.

    Args:
        folder: Of no use: the texts come with the package.
        config: Sample and seed; `documents` is how many texts there are at most.
        kept: Ask the half that is kept for the end.

    Raises:
        InputError: If an order is asked for: the texts have their own.
    """
    if config.order not in (None, "forward"):
        raise InputError("everyday: expected texts in their order.", "Leave --order out.")
    texts = documents()[: config.documents]
    asked = [
        Question(
            f"{text['id']}:{number}",
            question["ask"],
            tuple(question["answers"]),
            (document_id(place),) if question["answers"] else (),
            question.get("wanted", "any"),
            question["kind"],
            question.get("span", ""),
            _turns(text, question),
        )
        for place, text in enumerate(texts)
        for number, question in enumerate(text["questions"])
        if question["kept"] == kept
    ]
    chosen = sample(asked, config.questions, config.seed)
    yield Context("everyday", Stream(partial(map, _text, texts)), tuple(chosen))


def _turns(text: dict[str, Any], question: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the question that a follow-up comes after, with its right answer; nothing of one that stands alone."""
    if "after" not in question:
        return ()
    before = text["questions"][question["after"]]
    return ((before["ask"], before["answers"][0]),)


def documents() -> list[dict[str, Any]]:
    """Return the texts with their questions: the kind of each, its answers and the span that holds them."""
    packed = files("memrecall_kv") / "data" / "everyday.json"
    found: list[dict[str, Any]] = json.loads(packed.read_text(encoding="utf-8"))["documents"]
    return found


def _text(document: dict[str, Any]) -> str:
    return str(document["text"])
