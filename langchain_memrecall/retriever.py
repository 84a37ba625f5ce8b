"""A retriever whose documents are recalled from compressed memory."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from langchain_memrecall._base import OverBank
from langchain_memrecall._convert import to_host, to_where


class MemRecallRetriever(OverBank[str, list[Document]], BaseRetriever):
    """Returns the chunks a question needs, in the order they were recalled.

    Each is a `Document` under the id of the document it was cut from, with that document's metadata and
    `score`, `recall_step`, `chunk_id` and `start_index`.

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

    k: int | None = Field(default=None, ge=1)

    # LangChain passes on only those extra arguments of `invoke` that these signatures name.
    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: dict[str, Any] | None = None,
    ) -> list[Document]:
        return self._recall(query, k, filter)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: dict[str, Any] | None = None,
    ) -> list[Document]:
        return await asyncio.to_thread(self._recall, query, k, filter)

    def _recall(self, query: str, k: int | None, condition: dict[str, Any] | None) -> list[Document]:
        bank, memory = self._bank.get(), self._memory.get()
        recalls = memory.recall(bank, query, top_k=self.k if k is None else k, where=to_where(self.filter, condition))
        return [to_host(recall) for recall in recalls]
