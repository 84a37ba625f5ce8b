"""An index of LlamaIndex whose nodes are compressed into a memory bank, and recalled from it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine, ChatMode
from llama_index.core.data_structs import IndexList
from llama_index.core.data_structs.registry import INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS
from llama_index.core.data_structs.struct_type import IndexStructType
from llama_index.core.indices.base import BaseIndex
from llama_index.core.indices.registry import INDEX_STRUCT_TYPE_TO_INDEX_CLASS
from llama_index.core.llms.utils import LLMType
from llama_index.core.schema import BaseNode, IndexNode, TransformComponent
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory

from llama_index_memrecall._filters import to_where
from llama_index_memrecall._host_llm import checked_llm
from llama_index_memrecall._sources import Mirror, MirrorSource
from llama_index_memrecall.backbone_llm import BackboneLLM
from llama_index_memrecall.query_engine import MemRecallQueryEngine
from llama_index_memrecall.retriever import MemRecallRetriever

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall

_Node = TypeVar("_Node", bound=BaseNode)
_ENGINE_OPTIONS = ("top_k", "similarity_top_k", "filters", "streaming", "response_mode")


@dataclass
class MemRecallStruct(IndexList):
    """What LlamaIndex's index store keeps of a `MemRecallIndex`: which nodes are in it, and where their blocks are.

    Attributes:
        bank: Directory of the bank; `None` if it is temporary.
        owner: Name of the index in its bank; unlike `index_id`, it never changes.
    """

    bank: str | None = None
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def get_type(cls) -> IndexStructType:
        """Return the name that `load_index_from_storage` finds the class by."""
        # the host's enumeration is closed; a plain key serves its two registries just as well
        return cast(IndexStructType, "memrecall")


class MemRecallIndex(BaseIndex[MemRecallStruct]):
    """Compresses documents once and answers out of memory blocks; used like a `VectorStoreIndex`.

    LlamaIndex's docstore holds the nodes and the bank their blocks. The bank follows: what is inserted is compressed
    at once, what is deleted is deleted from both, and what a loaded index misses is made again when it is needed.
    Neither `Settings.llm` nor `Settings.embed_model` is ever read.

    Args:
        nodes: What to remember.
        objects: Index nodes that stand for something else; followed when they are recalled.
        index_struct: What was stored; `load_index_from_storage` passes it.
        storage_context: Where LlamaIndex keeps nodes and index; in memory if left out.
        bank: A directory of its own for the blocks, or an open bank. A loaded index uses the one it had, if it was
            given as a directory; `None` uses a temporary one otherwise.
        memory: What compresses and answers. Otherwise it is loaded, by the next two arguments.
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        callback_manager: For LlamaIndex's callbacks.
        transformations: How documents are cut into nodes.
        show_progress: Whether to draw progress bars.
        defer: Store texts alone; a question compresses what it comes near. The bank is then kept open for writing.

    Example:
        ```python
        index = MemRecallIndex.from_documents(documents, bank="handbook.bank")
        response = index.as_query_engine(similarity_top_k=3).query("Who approves travel?")
        ```
    """

    index_struct_cls = MemRecallStruct

    def __init__(
        self,
        nodes: Sequence[BaseNode] | None = None,
        *,
        objects: Sequence[IndexNode] | None = None,
        index_struct: MemRecallStruct | None = None,
        storage_context: StorageContext | None = None,
        bank: MemoryBank | str | Path | None = None,
        memory: MemRecall | None = None,
        name_or_path: str | None = None,
        device: str = "auto",
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        show_progress: bool = False,
        defer: bool = False,
    ) -> None:
        self._memory = LazyMemory(memory, name_or_path, device)
        stored = None if index_struct is None else index_struct.bank
        self._bank_path = str(bank) if isinstance(bank, (str, Path)) else stored
        super().__init__(
            nodes=nodes,
            objects=_copies(objects or ()),
            index_struct=index_struct,
            storage_context=storage_context,
            callback_manager=callback_manager,
            transformations=transformations,
            show_progress=show_progress,
        )
        lazy_bank = LazyBank(bank if bank is not None else self._bank_path, self._memory, defer=defer)
        self._mirror = Mirror(self, self._index_struct.owner, lazy_bank, self._memory)
        if index_struct is None:
            self._sync()

    def _sync(self) -> None:
        self._mirror.sync(show_progress=self._show_progress)

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> MemRecallStruct:
        ids = list(dict.fromkeys(node.node_id for node in nodes))
        return MemRecallStruct(nodes=ids, bank=self._bank_path)

    def _insert(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        held = set(self._index_struct.nodes)
        self._index_struct.nodes += [
            node_id for node_id in dict.fromkeys(n.node_id for n in nodes) if node_id not in held
        ]

    def insert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes and compress those that are new; one whose id is known replaces what it said."""
        super().insert_nodes(_copies(nodes), **insert_kwargs)
        self._sync()

    async def ainsert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes without blocking the loop while they are compressed."""
        await super().ainsert_nodes(_copies(nodes), **insert_kwargs)
        await asyncio.to_thread(self._sync)

    def _delete_node(self, node_id: str, **delete_kwargs: Any) -> None:
        if node_id in self._index_struct.nodes:
            self._index_struct.nodes.remove(node_id)

    def delete_nodes(self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete nodes from index and bank, and if asked from the docstore; unknown ids are no mistake."""
        # a copy: LlamaIndex passes the docstore's own list, which shrinks under the loop as nodes are deleted
        super().delete_nodes(list(node_ids), delete_from_docstore=delete_from_docstore, **delete_kwargs)
        self._sync()

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Delete nodes as `delete_nodes` does, without blocking the loop."""
        await super().adelete_nodes(list(node_ids), delete_from_docstore=delete_from_docstore, **delete_kwargs)
        await asyncio.to_thread(self._sync)

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """The documents whose nodes are in the index, by their id."""
        nodes = self.docstore.get_nodes(self._index_struct.nodes, raise_error=False)
        sources = {node.ref_doc_id for node in nodes if node.ref_doc_id is not None}
        found = {doc_id: self.docstore.get_ref_doc_info(doc_id) for doc_id in sorted(sources)}
        return {doc_id: info for doc_id, info in found.items() if info is not None}

    def as_retriever(
        self,
        *,
        top_k: int | None = None,
        similarity_top_k: int | None = None,
        filters: MetadataFilters | None = None,
        **kwargs: Any,
    ) -> MemRecallRetriever:
        """Return a retriever over what the index holds when it is asked.

        Args:
            top_k: Blocks to open per question, exactly; `None` leaves it to the memory's settings.
            similarity_top_k: The same by the name it has with other indexes.
            filters: Which nodes may be recalled, by their metadata.
            **kwargs: Nothing else; LlamaIndex's signature has it.

        Raises:
            InputError: If both numbers are given, or an option cannot be used as given.
            TypeError: If there is another option.
        """
        if kwargs:
            raise TypeError(f"as_retriever got an unexpected keyword argument {min(kwargs)!r}")
        if top_k is not None and similarity_top_k is not None:
            raise InputError("Expected one of top_k and similarity_top_k, got both.", "They mean the same: give one.")
        retriever = MemRecallRetriever(
            None,
            top_k=top_k if top_k is not None else similarity_top_k,
            filters=filters,
            callback_manager=self._callback_manager,
            object_map=self._object_map,
        )
        return retriever._over(MirrorSource(self._mirror, to_where(filters), closes=False), self._memory)

    def as_query_engine(self, llm: LLMType | None = None, **kwargs: Any) -> MemRecallQueryEngine:
        """Return a query engine over what the index holds when it is asked.

        Args:
            llm: Writes the answers; `None` for the memory's own reasoner.
            **kwargs: `top_k` or `similarity_top_k` and `filters`, and what `MemRecallQueryEngine` has of
                `streaming`, `response_mode`, `text_qa_template` and `refine_template`.
        """
        names = ("top_k", "similarity_top_k", "filters")
        recall = {name: kwargs.pop(name) for name in names if name in kwargs}
        return MemRecallQueryEngine(self.as_retriever(**recall), llm=checked_llm(llm), **kwargs)

    def as_chat_engine(
        self, chat_mode: ChatMode = ChatMode.BEST, llm: LLMType | None = None, **kwargs: Any
    ) -> BaseChatEngine:
        """Return a chat engine over what the index holds when it is asked.

        Args:
            chat_mode: `best` and `condense_plus_context` recall for the question made of chat and message, `context`
                for the message as it is, `condense_question` asks the query engine, `simple` recalls nothing.
            llm: Writes the replies; `None` for the memory's own backbone, through `BackboneLLM`.
            **kwargs: As for `as_query_engine`, and what LlamaIndex's chat engine of that mode takes.

        Raises:
            InputError: If the mode is another one.
        """
        model = checked_llm(llm) or BackboneLLM(memory=self._memory.get())
        options = {name: kwargs.pop(name) for name in _ENGINE_OPTIONS if name in kwargs}
        if chat_mode == ChatMode.CONDENSE_QUESTION:
            engine = self.as_query_engine(llm=llm, **options)
            return CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=model, **kwargs)
        if chat_mode == ChatMode.SIMPLE:
            return SimpleChatEngine.from_defaults(llm=model, **kwargs)
        if chat_mode == ChatMode.CONTEXT:
            return ContextChatEngine.from_defaults(retriever=self.as_retriever(**options), llm=model, **kwargs)
        if chat_mode in (ChatMode.BEST, ChatMode.CONDENSE_PLUS_CONTEXT):
            retriever = self.as_retriever(**options)
            return CondensePlusContextChatEngine.from_defaults(retriever=retriever, llm=model, **kwargs)
        raise InputError(
            f"Expected a chat mode that recalls, got {chat_mode!r}.",
            "For an agent, give it a QueryEngineTool made of as_query_engine().",
        )

    def close(self) -> None:
        """Close the bank if it was opened here, and remove it if it was temporary."""
        self._mirror.close()


def _copies(nodes: Sequence[_Node]) -> list[_Node]:
    """Return nodes that LlamaIndex may take the objects of index nodes out of."""
    return [node.model_copy() if isinstance(node, IndexNode) else node for node in nodes]


_TYPE = MemRecallStruct.get_type()
INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS[_TYPE] = MemRecallStruct
INDEX_STRUCT_TYPE_TO_INDEX_CLASS[_TYPE] = MemRecallIndex
