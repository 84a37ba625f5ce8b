"""What an adapter is given by its caller, checked the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import Field

from memrecall_kv.errors import InputError
from memrecall_kv.types import Document

Count: TypeAlias = Annotated[int, Field(ge=1)]
"""How many are wanted, as a field of a pydantic class; `memrecall_kv.config.check_count` is for all others."""


_PLACES = frozenset({"persist_directory", "persist_dir", "persist_path", "folder_path", "uri", "connection_string"})
_COLLECTIONS = frozenset({"collection", "collection_name", "index_name", "namespace", "table_name"})
_CLIENTS = frozenset({"client", "client_settings", "connection", "vector_store"})
_EMBEDDINGS = frozenset({"embed_model", "embedding", "embedding_function", "embedding_model", "embeddings"})
_OTHERS = _PLACES | _COLLECTIONS | _CLIENTS | _EMBEDDINGS
"""What other stores of the hosts' call their arguments."""


class OwnNames:
    """A class that tells who makes it with another store's argument what to write instead; first among the bases."""

    _place: ClassVar[str] = 'bank="handbook.bank"'
    """What names the directory that it keeps things in."""

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Look at the names before anything is made.

        Raises:
            InputError: If one is another store's.
        """
        refuse_names_of_others(cls.__name__, given, cls._place)
        return super().__new__(cls)


def refuse_names_of_others(taker: str, given: Iterable[str], place: str = OwnNames._place) -> None:
    """Refuse arguments by the names they have with vector stores.

    Args:
        taker: What is given them.
        given: Their names.
        place: What names a directory instead.

    Raises:
        InputError: If one is another store's; it says what to write here.
    """
    for name in sorted(_OTHERS.intersection(given)):
        hint = f"Name a directory: {place}."
        if name in _COLLECTIONS:
            hint = f"Give each collection a directory of its own: {place}."
        elif name in _CLIENTS:
            hint = f"There is no server; name a directory: {place}."
        elif name in _EMBEDDINGS:
            hint = "Leave it out: there are no vectors, and no embedding model is needed."
        raise InputError(f"{taker} takes no {name}=, which is another store's.", hint)


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
