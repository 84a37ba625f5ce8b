"""What an adapter is given by its caller, checked the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from memrecall_kv.errors import InputError
from memrecall_kv.types import Document

Count: TypeAlias = Annotated[int, Field(ge=1)]
"""How many are wanted, as a field of a pydantic class; `memrecall_kv.config.check_count` is for all others."""


def check_memory(given: Any) -> None:
    """Refuse what is given for a memory and is none.

    Raises:
        InputError: If it is neither a `MemRecall` nor `None`.
    """
    if given is not None and not hasattr(given, "walk"):
        raise InputError(
            f"Expected memory to be a MemRecall, got {type(given).__name__} {given!r}.",
            "Name a model to load with name_or_path=.",
        )


def check_names(name: str, given: Any) -> tuple[str, ...]:
    """Return the names that were given.

    Raises:
        InputError: If they are no list of texts; a text alone would be taken for its letters.
    """
    if isinstance(given, list | tuple) and all(isinstance(one, str) for one in given):
        return tuple(given)
    raise InputError(f"Expected {name} to be a list of texts, got {given!r}.", 'Write it like ["title", "year"].')


def distinct(documents: Iterable[Document]) -> list[Document]:
    """Return documents in order, one that comes again only once.

    Raises:
        InputError: If two differ and share an id: one would replace the other.
    """
    kept: dict[str, Document] = {}
    for document in documents:
        if kept.setdefault(document.id, document) != document:
            raise InputError(
                f"Expected ids to be unique, got different documents under the id {document.id!r}.",
                "Give each document an id of its own.",
            )
    return list(kept.values())
