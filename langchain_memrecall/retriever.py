"""A retriever whose documents are recalled from compressed memory."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig
from memrecall_kv.config import check_count
from memrecall_kv.hosts.arguments import Count
from memrecall_kv.hosts.served import ServedMemory
from memrecall_kv.remote import RemoteMemRecall
from memrecall_kv.types import Event
from pydantic import ConfigDict

from langchain_memrecall._base import OverBank, check_config
from langchain_memrecall._convert import to_host, to_question
from langchain_memrecall._filters import to_where
from langchain_memrecall._runs import PROVIDER
from langchain_memrecall._steps import arecalled, recalled


class MemRecallRetriever(OverBank[str, list[Document]], BaseRetriever):
    """Returns the chunks a question needs, in the order they were recalled.

    Each is a `Document` under the id of the document it was cut from, with that document's metadata and one key more,
    `memrecall`: `score`, `recall_step`, `chunk_id` and `start_index`. Each step is sent as a custom event
    `memrecall_step`.

    Attributes:
        k: Chunks to return, exactly, as long as there are as many; `None` leaves it to the memory's settings.

    Example:
        ```python
        retriever = MemRecallRetriever.from_documents(documents, bank="handbook.bank", k=3)
        retriever.invoke("Who approves travel?", filter={"team": "finance"})
        ```
    """

    # Once more, because BaseRetriever's own, which ignores unknown arguments, is merged last.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    k: Count | None = None

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Return the chunks a question needs; `k` and `filter` may be given for this one."""
        return super().invoke(input, check_config(config), **kwargs)

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Return what `invoke` returns, without blocking the loop; cancelling stops the work."""
        return await super().ainvoke(input, check_config(config), **kwargs)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        """Return what tracers are told; the model's name only if it is known without loading it."""
        is_here = self.memory is not None and not isinstance(self.memory, ServedMemory | RemoteMemRecall)
        model = self.name_or_path or (self.memory.backbone.name if is_here else None)
        named = super()._get_ls_params(**kwargs)
        return {**named, "ls_embedding_provider": PROVIDER, "ls_embedding_model": model}

    # LangChain passes on only those extra arguments of `invoke` that these signatures name.
    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: dict[str, Any] | None = None,
    ) -> list[Document]:
        config = RunnableConfig(callbacks=run_manager.get_child())
        return [to_host(recall) for recall in recalled(self._walk(query, k, filter), config)]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: dict[str, Any] | None = None,
    ) -> list[Document]:
        config = RunnableConfig(callbacks=run_manager.get_child())
        return [to_host(recall) for recall in await arecalled(lambda: self._walk(query, k, filter), config)]

    def _walk(self, query: str, k: int | None, condition: dict[str, Any] | None) -> Generator[Event, None, None]:
        question, count, where = to_question(query), check_count("k", k) or self.k, to_where(self.filter, condition)
        bank, memory = self._bank.get(), self._memory.get()
        yield from memory.walk(bank, question, top_k=count, where=where)
