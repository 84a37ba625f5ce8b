"""The gate as a document compressor: behind any retriever, it decides which documents matter and in what order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableConfig, RunnableLambda
from memrecall_kv.hosts.documents import walk_documents
from memrecall_kv.hosts.settings import RerankerSettings
from memrecall_kv.types import Event, Recall

from langchain_memrecall._convert import KEY, Recalled, check_documents, to_entry, to_question, with_recall
from langchain_memrecall._steps import arecalled, recalled


class MemRecallDocumentCompressor(RerankerSettings, BaseDocumentCompressor):
    """Keeps the documents the gate opens, in the order it opens them.

    Each document is compressed once and kept in a cache under the hash of its text and of the metadata judged
    with it, so that one seen before costs a gate forward only. What comes back are copies whose metadata have one
    key more, `memrecall`, with `score` (the gate's probability, [0, 1]) and `recall_step`. A document without text
    cannot be judged and is left out.

    Attributes:
        top_n: Documents to return, exactly, as long as there are as many; `None` leaves it to the memory's
            settings: those of `scan.top_k` blocks, or of all above `gate.threshold`.
        metadata_keys: Metadata that are judged with a document's text.
        cache_path: Directory of the cache; `None` for a temporary one, removed by `close` or at the end.
        name_or_path, device, memory: Which `MemRecall`; see `MemorySettings`.

    Example:
        ```python
        compressor = MemRecallDocumentCompressor(top_n=3)
        ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
        ```
    """

    metadata_keys: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings: a copy loads its model by name, and what is temporary it makes anew."""
        kept = [name for name, field in type(self).model_fields.items() if not field.exclude]
        return partial(type(self), **{name: getattr(self, name) for name in kept}), ()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that shares the model."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields})

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return copies of the documents that are kept; the run shows up below that of `callbacks`.

        Raises:
            InputError: If the question is empty, or something else is among the documents.
        """

        def select(query: str, config: RunnableConfig) -> list[Document]:
            return self._copies(sources, recalled(self._walk(sources, query), config))

        sources = self._by_key(documents)
        kept: list[Document] = RunnableLambda(select).invoke(query, self._config(callbacks))
        return kept

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return what `compress_documents` returns, without blocking the loop; cancelling stops the scan."""

        async def select(query: str, config: RunnableConfig) -> list[Document]:
            return self._copies(sources, await arecalled(lambda: self._walk(sources, query), config))

        sources = self._by_key(documents)
        kept: list[Document] = await RunnableLambda(select).ainvoke(query, self._config(callbacks))
        return kept

    def _walk(self, sources: Mapping[str, list[Document]], question: str) -> Generator[Event, None, None]:
        """Yield the events of one choice; only the chunk by which a text is opened first counts as opened."""
        to_question(question)
        if sources:
            bank, where = self._cache.keep(to_entry(same[0], self.metadata_keys) for same in sources.values())
            yield from walk_documents(self._memory.get(), bank, question, top_n=self.top_n, where=where)

    def _copies(self, sources: Mapping[str, list[Document]], recalls: Iterable[Recall]) -> list[Document]:
        copies = [
            document.model_copy(update={"metadata": with_recall(document.metadata, recall, _place(document))})
            for recall in recalls
            for document in sources[recall.chunk.doc_id]
        ]
        return copies[: self.top_n]

    def _config(self, callbacks: Callbacks | None) -> RunnableConfig:
        return RunnableConfig(callbacks=callbacks, run_name=type(self).__name__)

    def _by_key(self, documents: Sequence[Document]) -> dict[str, list[Document]]:
        """Return the documents by what is judged, under its key in the cache: what is equal is judged once."""
        sources: dict[str, list[Document]] = {}
        for document in check_documents(documents):
            if document.page_content.strip():
                same = sources.setdefault(to_entry(document, self.metadata_keys).id, [])
                if document not in same:
                    same.append(document)
        return sources


def _place(document: Document) -> dict[str, Any]:
    """Return where a document stands, if it comes from one of our retrievers."""
    known = document.metadata.get(KEY)
    return known.place if isinstance(known, Recalled) else {}
