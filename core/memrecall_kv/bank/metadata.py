"""What a document may hold, and the JSON form of what its metadata hold."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Set
from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from enum import Enum
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.types import Document, Heading

_DEEPEST = 64
"""Levels of lists and mappings; Python's own reader of JSON gives up at some hundreds, sooner inside deep calls."""
_LONGEST_INTEGER = 4000
"""Digits; Python reads no more than 4300."""


def storable(document: Document) -> Document:
    """Return a document as a bank gives it back: lone surrogates replaced, and the metadata in their JSON form.

    That form is, besides texts, numbers, booleans, `None`, lists and mappings with texts as keys: ISO 8601 of a
    date or time, the text of a UUID, Decimal or path, the value of an enum, and a list of a tuple or of a set,
    whose items are sorted.

    Raises:
        InputError: If id, text or heading are none, the id has a lone surrogate, or something of the metadata has no
            JSON form: NaN and infinity have none, nor what is nested too deep.
    """
    if not isinstance(document, Document):
        raise InputError(f"Expected a Document, got {type(document).__name__}.", "Make one: Document(id, text).")
    heading = document.heading
    if not isinstance(heading, Heading):
        raise InputError(
            f"Expected a Heading of document {document.id!r}, got {type(heading).__name__}.",
            "Make one: Heading(judged, read).",
        )
    texts = {"id": document.id, "text": document.text, "judged heading": heading.judged, "read heading": heading.read}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise InputError(
                f"Expected a text as the {name} of document {document.id!r}, got {type(value).__name__}.",
                "Turn it into a str.",
            )
    if repaired(document.id) != document.id:
        raise InputError(
            f"The id {document.id!r} holds half a surrogate pair.",
            'Repair it with id.encode("utf-16", "surrogatepass").decode("utf-16", "replace").',
        )
    if not isinstance(document.metadata, Mapping):
        raise _no_json(document.id, f"expected a mapping, got {type(document.metadata).__name__}")
    metadata = _json_form(document.metadata, document.id, "", _DEEPEST)
    heading = Heading(repaired(heading.judged), repaired(heading.read))
    return replace(document, text=repaired(document.text), metadata=metadata, heading=heading)


def repaired(text: str) -> str:
    """Return a text with halves of surrogate pairs joined or replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def to_json(document: Document) -> str:
    """Return a document's metadata as JSON, its order kept; raises like `storable`."""
    return json.dumps(storable(document).metadata, ensure_ascii=False)


def _json_form(value: object, doc_id: str, where: str, levels: int) -> Any:
    """Return the JSON form of what is at a place such as `.pages[2]` of a document's metadata."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return repaired(str(value))
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, uuid.UUID | Decimal | PurePath):
        return repaired(str(value))
    if isinstance(value, Integral | Real):
        return _number(value, doc_id, where)
    if isinstance(value, Mapping | list | tuple | Set):
        if levels == 0:
            raise _no_json(doc_id, f"{where[:60]}... is more than {_DEEPEST} levels deep")
        return _container(value, doc_id, where, levels - 1)
    raise _no_json(doc_id, f"{where or 'it'} is of type {type(value).__name__}")


def _container(
    value: Mapping[Any, Any] | list[Any] | tuple[Any, ...] | Set[Any], doc_id: str, where: str, levels: int
) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            # json would turn 1 into "1" without a word, and the metadata would come back changed
            raise _no_json(doc_id, f"a key is no text{' in ' + where if where else ''}")
        return {repaired(str(key)): _json_form(item, doc_id, f"{where}.{key}", levels) for key, item in value.items()}
    items = [_json_form(item, doc_id, f"{where}[{place}]", levels) for place, item in enumerate(value)]
    return sorted(items, key=json.dumps) if isinstance(value, Set) else items


def _number(value: Integral | Real, doc_id: str, where: str) -> int | float:
    if isinstance(value, Integral):
        whole = int(value)
        if whole.bit_length() > _LONGEST_INTEGER * math.log2(10):
            raise _no_json(doc_id, f"{where} has more than {_LONGEST_INTEGER} digits")
        return whole
    try:
        number = float(value)
    except OverflowError:  # a fraction may be larger than any float
        number = math.inf
    if not math.isfinite(number):
        raise _no_json(doc_id, f"{where} is {number}")
    return number


def _no_json(doc_id: str, problem: str) -> InputError:
    return InputError(
        f"The metadata of {doc_id!r} is not JSON: {problem}.",
        "Use texts, finite numbers, dates, lists, and mappings with texts as keys.",
    )
