"""A vector store without vectors: documents go in as everywhere, and the gate decides what comes out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from memrecall_kv.config import check_count
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.arguments import OwnNames, check_names
from memrecall_kv.hosts.documents import walk_documents
from memrecall_kv.hosts.lazy import LazyMemory
from memrecall_kv.hosts.served import at_url, settled
from memrecall_kv.hosts.streaming import gathered, opened
from memrecall_kv.types import Where

from langchain_memrecall._base import check_config
from langchain_memrecall._convert import check_documents, to_document, to_documents, to_question
from langchain_memrecall._filters import to_where
from langchain_memrecall._growing import GrowingBank

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall


class MemRecallStore(OwnNames, VectorStore):
    """Keeps documents compressed in a bank and gives back whole ones, in the order the gate opens them.

    For code that wants a `VectorStore`: `as_retriever`, `langchain_core.indexing.index`, and what is built on
    them. A document that is added again unchanged is not compressed again. What needs vectors (search by
    vector, maximal marginal relevance) is refused.

    Args:
        bank: An open bank; the directory of one, created if need be; the URL of a served one; `None` for a
            temporary one, removed by `close` or with this object.
        name_or_path: What `MemRecall.from_pretrained` loads on first use; `None` for its default.
        device: Where it is loaded.
        memory: A `MemRecall` to use instead of loading one.
        metadata_keys: Metadata that models judge and read with the text of a document that is added.
        defer: Store texts alone; a question compresses what it comes near. The bank is then kept open for writing.

    Raises:
        InputError: If `bank`, `memory` or `metadata_keys` is something else.

    Example:
        ```python
        store = MemRecallStore("handbook.bank")
        index(documents, record_manager, store, cleanup="incremental", source_id_key="source")
        store.as_retriever(search_kwargs={"k": 3}).invoke("Who approves travel?")
        ```
    """

    def __init__(
        self,
        bank: MemoryBank | str | Path | None = None,
        *,
        name_or_path: str | None = None,
        device: str = "auto",
        memory: MemRecall | None = None,
        metadata_keys: Sequence[str] = (),
        defer: bool = False,
    ) -> None:
        self._metadata_keys = check_names("metadata_keys", metadata_keys)
        memory, bank = settled(memory, bank)
        self._named: dict[str, Any] = {
            "bank": bank,
            "name_or_path": name_or_path,
            "device": device,
            "metadata_keys": self._metadata_keys,
        }
        self._memory = LazyMemory(memory, name_or_path, device)
        self._bank = GrowingBank(bank, self._memory, defer=defer)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what names model and bank; a `memory` that was passed is not pickled.

        Raises:
            InputError: If the bank is temporary, and so no other process's.
        """
        bank = self._named["bank"]
        if bank is None:
            raise InputError("Expected a bank with a name, got a temporary one.", "Make the store with bank=.")
        return partial(type(self), **{**self._named, "bank": str(getattr(bank, "path", bank))}), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the store itself: a copy of an index is not a second index."""
        return self

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return a store of texts.

        Args:
            texts: What to remember.
            embedding: Taken so that the call of other stores works, and not used: there are no vectors.
            metadatas: One per text.
            ids: One per text; made of the content if left out.
            **kwargs: As for the class.

        Raises:
            InputError: As `add_documents`.
        """
        store = cls(**kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_documents(
        cls,
        documents: list[Document],
        embedding: Embeddings | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return a store of documents; arguments as for `from_texts`."""
        store = cls(**kwargs)
        store.add_documents(documents, ids=ids)
        return store

    @classmethod
    def from_url(
        cls,
        url: str,
        bank: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        metadata_keys: Sequence[str] = (),
    ) -> Self:
        """Return a store over a bank that `memrecall-kv serve` serves; arguments as of the retriever's `from_url`."""
        _, served = at_url(url, bank, api_key, timeout)
        return cls(served, metadata_keys=metadata_keys)  # type: ignore[arg-type]  # what a store asks of a bank is there

    @property
    def embeddings(self) -> Embeddings | None:
        """`None`: there are no vectors."""
        return None

    def as_retriever(self, **kwargs: Any) -> VectorStoreRetriever:
        """Return a retriever over this store.

        Args:
            **kwargs: `search_type`, and `search_kwargs` with `k`, `filter` and `score_threshold`; `tags`, `metadata`
                and `name`.

        Raises:
            InputError: If there are others, such as a filter beside `search_kwargs`.
        """
        _refuse(kwargs, *sorted(VectorStoreRetriever.model_fields.keys() - {"vectorstore"}))
        tags = kwargs.pop("tags", None) or self._get_retriever_tags()
        return _StoreRetriever(vectorstore=self, tags=[*tags], **kwargs)

    def close(self) -> None:
        """Close the bank if this object opened it, and remove it if it was temporary."""
        self._bank.close()

    def add_documents(self, documents: list[Document], *, ids: list[str] | None = None, **kwargs: Any) -> list[str]:
        """Compress documents that are new or changed; return the id of each.

        Args:
            documents: What to remember. One with a known id replaces what is there; one without an id is known
                by its content; one without text is left out.
            ids: To use instead of the documents' own, one each.
            **kwargs: `batch_size`, as `index()` passes it, which changes nothing here.

        Raises:
            InputError: If something else is among the documents, two different ones share an id, the number of ids is
                another, or an argument unknown; nothing is written then.
        """
        _refuse(kwargs, "batch_size")
        given = _identified(documents, ids)
        if any(document.page_content.strip() for document in given):
            self._bank.ingest(to_documents(given, self._metadata_keys))
        return [to_document(document).id for document in given]

    # LangChain's own would find nothing left in an iterator, and remember nothing without a word
    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Compress texts, as `add_documents` does."""
        return super().add_texts(list(texts), metadatas, ids=ids, **kwargs)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Compress texts, as `add_documents` does, without blocking the loop."""
        return await super().aadd_texts(list(texts), metadatas, ids=ids, **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Forget documents; one that is not there is no mistake.

        Raises:
            InputError: If there is no list of ids, or something besides: nothing is deleted by accident.
        """
        _refuse(kwargs)
        if ids is None or isinstance(ids, str):
            raise InputError(f"Expected a list of ids to delete, got {ids!r}.", "Name each document to forget.")
        with self._bank.writing() as writable:
            writable.delete_many(doc_id for doc_id in map(str, ids) if doc_id in writable)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, leaving out what is not there."""
        bank = self._bank.get()
        return [_to_host(bank, doc_id) for doc_id in map(str, ids) if doc_id in bank]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return exactly `k` documents, or all there are; arguments as for `similarity_search_with_score`."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return what `similarity_search` returns, without blocking the loop; cancelling stops the scan."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return documents with the gate's probability, [0, 1], in the order they were opened.

        Args:
            query: What is asked.
            k: Documents to return.
            **kwargs: `filter`: metadata that a document must have, with operators if wanted; or, as in LangChain's
                own in-memory store, a function of the document.

        Raises:
            InputError: If the question is empty, `k` below 1, an argument unknown, or the filter none.
        """
        return [found for found in self._found(query, k, **kwargs) if found is not None]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return what `similarity_search_with_score` returns, without blocking the loop; cancelling stops the scan."""
        return await gathered(lambda: self._found(query, k, **kwargs))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Refuse: there are no vectors."""
        raise _no_vectors("a vector to search by")

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Refuse: there are no vectors to compare documents by."""
        raise _no_vectors("a search for maximal marginal relevance (mmr)")

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Refuse: there are no vectors."""
        raise _no_vectors("a vector to search by")

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda probability: probability

    def _found(
        self, query: str, k: int, *, filter: dict[str, Any] | Callable[[Document], bool] | None = None, **unknown: Any
    ) -> Generator[tuple[Document, float] | None, None, None]:
        """Yield each document as it is opened, and `None` at other steps: between two, an abandoned thread stops."""
        _refuse(unknown, "k", "filter")
        question, count = to_question(query), check_count("k", k)
        bank = self._bank.get()
        where = _where(bank, filter) if callable(filter) else to_where(filter)
        for recall in opened(walk_documents(self._memory.get(), bank, question, top_n=count, where=where)):
            yield None if recall is None else (_to_host(bank, recall.chunk.doc_id), recall.gate_probability)


class _StoreRetriever(VectorStoreRetriever):
    """LangChain's, which reads no argument of ours in a config, nor drops it."""

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        return super().invoke(input, check_config(config), **kwargs)

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        return await super().ainvoke(input, check_config(config), **kwargs)


def _refuse(given: Mapping[str, Any], *expected: str) -> None:
    """Refuse arguments that nobody would read: a misplaced filter must not mean no filter.

    Raises:
        InputError: If there are others than those expected.
    """
    if unknown := sorted(given.keys() - set(expected)):
        wanted = " and ".join(map(repr, expected)) or "no further arguments"
        raise InputError(
            f"Expected {wanted}, got {', '.join(map(repr, unknown))}.",
            "What narrows a search goes to the search, or into search_kwargs of as_retriever.",
        )


def _identified(documents: Iterable[Document], ids: list[str] | None) -> list[Document]:
    """Return the documents under the ids that were given for them."""
    listed = check_documents(documents)
    if ids is None:
        return listed
    if isinstance(ids, str) or len(ids) != len(listed):
        raise InputError(
            f"Expected a list of {len(listed)} ids, one per document, got {ids!r}.", "Pass as many as documents."
        )
    # a number becomes a text, as in a document of LangChain's that is made with it
    texts = [None if given is None else str(given) for given in ids]
    return [
        document.model_copy(update={"id": given or document.id}) for document, given in zip(listed, texts, strict=True)
    ]


def _where(bank: MemoryBank, holds: Callable[[Document], bool]) -> Where:
    return lambda doc_id, _: doc_id in bank and bool(holds(_to_host(bank, doc_id)))


def _to_host(bank: MemoryBank, doc_id: str) -> Document:
    stored = bank.document(doc_id)
    return Document(id=doc_id, page_content=stored.text, metadata=dict(stored.metadata))


def _no_vectors(got: str) -> NotImplementedError:
    """Return what LangChain's own stores raise for a search they do not have."""
    return NotImplementedError(
        f"Expected a question, got {got}: MemRecallStore holds no vectors. "
        "Use similarity_search, similarity_search_with_score, or as_retriever with another search_type."
    )
