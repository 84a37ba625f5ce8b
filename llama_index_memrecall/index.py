"""Recall as an index: documents go in, change and go, and engines, retrievers and chats come out."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.chat_engine import CondensePlusContextChatEngine, CondenseQuestionChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import BaseChatEngine, ChatMode
from llama_index.core.data_structs.data_structs import IndexStruct
from llama_index.core.data_structs.registry import INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS
from llama_index.core.data_structs.struct_type import IndexStructType
from llama_index.core.indices.base import BaseIndex
from llama_index.core.indices.registry import INDEX_STRUCT_TYPE_TO_INDEX_CLASS
from llama_index.core.llms import LLM
from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import RefDocInfo
from memrecall_kv.errors import InputError
from memrecall_kv.lazy import LazyBank, LazyMemory

from llama_index_memrecall._convert import to_documents
from llama_index_memrecall.query_engine import MemRecallQueryEngine
from llama_index_memrecall.retriever import MemRecallRetriever

if TYPE_CHECKING:  # it imports torch
    from memrecall_kv import MemRecall

# LlamaIndex closes its enum of types, but looks structs and indices up by any key
_TYPE = cast("IndexStructType", "memrecall")
_BANK = "memrecall_bank"


@dataclass
class MemRecallStruct(IndexStruct):
    """What LlamaIndex stores of an index beside its nodes.

    Attributes:
        node_ids: Nodes of the index, in the order they came.
        bank: Directory of the bank; empty if it is temporary.
    """

    node_ids: list[str] = field(default_factory=list)
    bank: str = ""

    @classmethod
    def get_type(cls) -> IndexStructType:
        """Return the key of struct and index in LlamaIndex's registries."""
        return _TYPE


class MemRecallIndex(BaseIndex[MemRecallStruct]):
    """An index whose nodes are compressed once and recalled by the gate.

    Neither `Settings.llm` nor `Settings.embed_model` is read. Texts are in LlamaIndex's docstore too, so that an index
    that is loaded without its bank compresses its nodes again instead of losing them.

    Args:
        nodes: What to remember.
        bank: Directory of the bank, created if need be; `None` uses a temporary one, which `persist` copies.
        memory: What compresses and recalls. Otherwise it is loaded on first use, by the next two arguments.
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        index_struct: Of a stored index.
        **options: What every index of LlamaIndex takes: `storage_context`, `transformations`, `callback_manager`, ...

    Example:
        ```python
        index = MemRecallIndex.from_documents(documents, bank="handbook.bank")
        index.as_query_engine().query("Who approves travel?")
        index.delete_ref_doc("travel", delete_from_docstore=True)
        ```
    """

    index_struct_cls = MemRecallStruct

    def __init__(
        self,
        nodes: Sequence[BaseNode] | None = None,
        *,
        bank: str | Path | None = None,
        memory: MemRecall | None = None,
        name_or_path: str | None = None,
        device: str = "auto",
        index_struct: MemRecallStruct | None = None,
        **options: Any,
    ) -> None:
        stored = Path(index_struct.bank) if index_struct and index_struct.bank else None
        path = Path(bank) if bank is not None else stored if stored and stored.is_dir() else None
        self._memory = LazyMemory(memory, name_or_path, device)
        self._bank = LazyBank(path, self._memory)
        self._path = str(path.absolute()) if path else ""
        # a stored index may have lost its bank, or be given an old one
        self._is_behind = index_struct is not None
        super().__init__(nodes, index_struct=index_struct, **options)

    def persist(self, persist_dir: str | Path) -> None:
        """Store the index so that `load_index_from_storage` finds it: nodes, struct, and a temporary bank's copy."""
        if not self._path:
            with self._bank.writing() as bank:  # nobody else writes meanwhile
                target = Path(persist_dir).absolute() / _BANK
                shutil.copytree(bank.path, target, dirs_exist_ok=True)
            self._index_struct.bank = str(target)
            self._storage_context.index_store.add_index_struct(self._index_struct)
        self._storage_context.persist(str(persist_dir))

    def close(self) -> None:
        """Close the bank, and remove it if it was temporary."""
        self._bank.close()

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """The documents of the index, with the ids of their nodes."""
        nodes = self.docstore.get_nodes(self._index_struct.node_ids, raise_error=False)
        found = {node.ref_doc_id: self.docstore.get_ref_doc_info(node.ref_doc_id) for node in nodes if node.ref_doc_id}
        return {ref_doc_id: info for ref_doc_id, info in found.items() if info}

    def as_retriever(self, *, similarity_top_k: int | None = None, **options: Any) -> MemRecallRetriever:
        """Return a retriever; `similarity_top_k` is `top_k`, the rest as for `MemRecallRetriever`."""
        options.setdefault("top_k", similarity_top_k)
        options.setdefault("callback_manager", self._callback_manager)
        self._catch_up()
        retriever = MemRecallRetriever(self._bank.get(), memory=self._memory.get(), **options)
        retriever._source.within = self._ids
        return retriever

    def as_query_engine(  # type: ignore[override]  # a name of an LLM cannot be resolved without Settings
        self, llm: LLM | None = None, *, similarity_top_k: int | None = None, **options: Any
    ) -> MemRecallQueryEngine:
        """Return a query engine; `similarity_top_k` is `top_k`, the rest as for `MemRecallQueryEngine`."""
        options.setdefault("top_k", similarity_top_k)
        options.setdefault("callback_manager", self._callback_manager)
        self._catch_up()
        engine = MemRecallQueryEngine(self._bank.get(), memory=self._memory.get(), llm=llm, **options)
        engine._source.within = self._ids
        return engine

    def as_chat_engine(  # type: ignore[override]
        self,
        chat_mode: ChatMode = ChatMode.BEST,
        llm: LLM | None = None,
        *,
        similarity_top_k: int | None = None,
        **options: Any,
    ) -> BaseChatEngine:
        """Return a chat engine whose LLM makes one question of the conversation, or talks about what is recalled.

        Args:
            chat_mode: "condense_question" (also "best"): the LLM condenses, the memory answers. "context" and
                "condense_plus_context": the LLM answers from what is recalled.
            llm: LlamaIndex's; needed, since `Settings.llm` is not read.
            similarity_top_k: Blocks to open per question; `None` leaves it to the gate.
            **options: As for the chat engine.

        Raises:
            InputError: If there is no LLM, or the mode is another.
        """
        if llm is None:
            raise InputError("A chat needs an LLM that reads the conversation.", "Pass llm=.")
        if chat_mode in (ChatMode.BEST, ChatMode.CONDENSE_QUESTION):
            engine = self.as_query_engine(similarity_top_k=similarity_top_k)
            return CondenseQuestionChatEngine.from_defaults(engine, llm=llm, **options)
        chats: dict[ChatMode, type[ContextChatEngine | CondensePlusContextChatEngine]] = {
            ChatMode.CONTEXT: ContextChatEngine,
            ChatMode.CONDENSE_PLUS_CONTEXT: CondensePlusContextChatEngine,
        }
        if chat_mode not in chats:
            raise InputError(
                f"Expected a chat_mode that recalls, got {getattr(chat_mode, 'value', chat_mode)!r}.",
                "Take condense_question, context or condense_plus_context; for agents, as_query_engine as a tool.",
            )
        retriever = self.as_retriever(similarity_top_k=similarity_top_k)
        return chats[chat_mode].from_defaults(retriever, llm=llm, **options)

    async def ainsert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes without blocking the loop, which LlamaIndex's own method would."""
        await asyncio.to_thread(self.insert_nodes, nodes, **insert_kwargs)

    def delete_nodes(self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete nodes; their texts cannot be recalled from then on."""
        # a docstore hands out the list that it shortens while it deletes
        super().delete_nodes(list(node_ids), delete_from_docstore, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Delete nodes without blocking the loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, delete_from_docstore, **delete_kwargs)

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> MemRecallStruct:
        self._index_struct = MemRecallStruct(bank=self._path)
        self._insert(nodes)
        return self._index_struct

    def _insert(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        documents = to_documents(nodes)
        self._catch_up()
        with self._bank.writing() as bank:
            self._memory.get().ingest(bank, documents)
        known = set(self._index_struct.node_ids)
        self._index_struct.node_ids += [d.id for d in documents if d.id not in known]

    def _delete_node(self, node_id: str, **delete_kwargs: Any) -> None:
        self._catch_up()
        with self._bank.writing() as bank:
            if node_id in bank:
                bank.delete(node_id)
        if node_id in self._index_struct.node_ids:
            self._index_struct.node_ids.remove(node_id)

    def _ids(self) -> set[str]:
        """Return what may be recalled: a bank can hold more, of other indices or from before a deletion."""
        return set(self._index_struct.node_ids)

    def _catch_up(self) -> None:
        """Compress what the struct of a stored index names and its bank does not hold."""
        if not self._is_behind:
            return
        nodes = self.docstore.get_nodes(self._index_struct.node_ids)
        with self._bank.writing() as bank:
            self._memory.get().ingest(bank, to_documents(nodes))
        self._is_behind = False


INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS[_TYPE] = MemRecallStruct
INDEX_STRUCT_TYPE_TO_INDEX_CLASS[_TYPE] = MemRecallIndex
