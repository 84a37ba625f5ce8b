"""An index of LlamaIndex whose nodes are compressed into a memory bank, and recalled from it."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

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
from llama_index.core.schema import Document as HostDocument
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.arguments import OwnNames, refuse_names_of_others
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory

from llama_index_memrecall._closing import Closing
from llama_index_memrecall._convert import storable
from llama_index_memrecall._docstore import read_nodes, restored
from llama_index_memrecall._holding import Holding
from llama_index_memrecall._host_llm import checked_llm
from llama_index_memrecall._sources import IndexSource
from llama_index_memrecall.backbone_llm import BackboneLLM
from llama_index_memrecall.query_engine import ENGINE_OPTIONS, MemRecallQueryEngine
from llama_index_memrecall.retriever import RETRIEVER_OPTIONS, MemRecallRetriever

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall

_Node = TypeVar("_Node", bound=BaseNode)


@dataclass
class MemRecallStruct(IndexList):
    """What LlamaIndex's index store keeps of a `MemRecallIndex`: which nodes are in it, and where their blocks are.

    Attributes:
        bank: Directory of the bank, absolute; `None` if it is temporary.
        owner: Name of the index in its bank; unlike `index_id`, it never changes.
    """

    bank: str | None = None
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def get_type(cls) -> IndexStructType:
        """Return the name that `load_index_from_storage` finds the class by."""
        # the host's enumeration is closed; a plain key serves its two registries just as well
        return cast(IndexStructType, "memrecall")


class MemRecallIndex(OwnNames, Closing, BaseIndex[MemRecallStruct]):
    """Compresses documents once and answers out of memory blocks; used like a `VectorStoreIndex`.

    LlamaIndex's docstore holds the nodes and the bank their blocks. What is inserted is compressed at once, what is
    deleted is deleted from both, and a question deletes nothing. A loaded index whose bank is lost compresses again.
    A bank is one index's: building an index into it replaces what an index built there before.
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
        given = str(Path(bank).resolve()) if isinstance(bank, (str, Path)) else None
        self._bank_path = given or stored
        self._is_elsewhere = given is not None and stored is not None and given != stored
        self._owner = MemRecallStruct().owner if index_struct is None else index_struct.owner
        lazy_bank = LazyBank(bank if bank is not None else self._bank_path, self._memory, defer=defer)
        self._holding = Holding(self._owner, lazy_bank, self._memory)
        self._one_writes = threading.RLock()
        objects = _copies(objects or ())
        built = [] if index_struct is not None else [node.node_id for node in (*(nodes or ()), *objects)]
        with ExitStack() as undo:
            if index_struct is None:
                if storage_context is not None:
                    undo.enter_context(restored(storage_context.docstore, built))
                undo.enter_context(self._holding.unless_all_goes_well(built))
            super().__init__(
                nodes=None if nodes is None else [_stored(node) for node in nodes],
                objects=objects,
                index_struct=index_struct,
                storage_context=storage_context,
                callback_manager=callback_manager,
                transformations=transformations,
                show_progress=show_progress,
            )

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[HostDocument],
        storage_context: StorageContext | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return an index of documents; what an earlier index left in its bank is replaced.

        Args:
            documents: What to remember.
            storage_context: As for the class; as it was if this fails.
            show_progress: Whether to draw progress bars.
            callback_manager: For LlamaIndex's callbacks.
            transformations: How documents are cut into nodes.
            **kwargs: `bank`, `memory`, `name_or_path` and `device`, as for the class.
        """
        refuse_names_of_others(cls.__name__, kwargs)  # before documents are cut
        context = storage_context or StorageContext.from_defaults()
        with restored(context.docstore, (), [document.id_ for document in documents]):
            return super().from_documents(
                documents, context, show_progress, callback_manager, transformations, **kwargs
            )

    def build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> MemRecallStruct:
        """Compress nodes into the bank and put them into the docstore."""
        self._holding.claim(nodes, show_progress=self._show_progress)
        return super().build_index_from_nodes(nodes, **build_kwargs)

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> MemRecallStruct:
        ids = list(dict.fromkeys(node.node_id for node in nodes))
        return MemRecallStruct(nodes=ids, bank=self._bank_path, owner=self._owner)

    def _insert(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        self._index_struct.nodes = list(dict.fromkeys([*self._index_struct.nodes, *(node.node_id for node in nodes)]))

    def insert(self, document: HostDocument, **insert_kwargs: Any) -> None:
        """Insert a document; if it cannot be stored, nothing has changed."""
        with self._all_or_nothing((), [document.id_]):
            super().insert(document, **insert_kwargs)

    async def ainsert(self, document: HostDocument, **insert_kwargs: Any) -> None:
        """Insert a document as `insert` does, without blocking the loop."""
        await asyncio.to_thread(self.insert, document, **insert_kwargs)

    def insert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes and compress those that are new; one whose id is known replaces what it said.

        If one of them cannot be stored, none is: docstore, index and bank are as they were.
        """
        self._fill()
        nodes = [_stored(node) for node in _copies(nodes)]
        with self._all_or_nothing([node.node_id for node in nodes]):
            self._holding.put(nodes, show_progress=self._show_progress)
            super().insert_nodes(nodes, **insert_kwargs)

    async def ainsert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes as `insert_nodes` does, without blocking the loop while they are compressed."""
        await asyncio.to_thread(self.insert_nodes, nodes, **insert_kwargs)

    def _delete_node(self, node_id: str, **delete_kwargs: Any) -> None:
        # a new list: what was there is put back if the deletion fails
        self._index_struct.nodes = [held for held in self._index_struct.nodes if held != node_id]

    def delete_nodes(self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete nodes from index and bank, and if asked from the docstore; unknown ids are no mistake."""
        # a copy: LlamaIndex passes the docstore's own list, which shrinks under the loop as nodes are deleted
        node_ids = list(node_ids)
        self._holding.confirm(self._index_struct.nodes)
        with self._all_or_nothing(node_ids):
            self._holding.drop(node_ids)
            super().delete_nodes(node_ids, delete_from_docstore=delete_from_docstore, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Delete nodes as `delete_nodes` does, without blocking the loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, delete_from_docstore, **delete_kwargs)

    def delete_ref_doc(self, ref_doc_id: str, delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete a document's nodes as `delete_nodes` does; an unknown document is no mistake."""
        with self._all_or_nothing(self._nodes_of(ref_doc_id), [ref_doc_id]):
            super().delete_ref_doc(ref_doc_id, delete_from_docstore, **delete_kwargs)

    async def adelete_ref_doc(self, ref_doc_id: str, delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete a document's nodes as `delete_ref_doc` does, without blocking the loop."""
        await asyncio.to_thread(self.delete_ref_doc, ref_doc_id, delete_from_docstore, **delete_kwargs)

    def update_ref_doc(self, document: HostDocument, **update_kwargs: Any) -> None:
        """Replace a document; if the new one cannot be stored, the old one stays."""
        with self._all_or_nothing(self._nodes_of(document.id_), [document.id_]):
            super().update_ref_doc(document, **update_kwargs)

    async def aupdate_ref_doc(self, document: HostDocument, **update_kwargs: Any) -> None:
        """Replace a document as `update_ref_doc` does, without blocking the loop."""
        await asyncio.to_thread(self.update_ref_doc, document, **update_kwargs)

    def _nodes_of(self, ref_doc_id: str) -> list[str]:
        info = self.docstore.get_ref_doc_info(ref_doc_id)
        return [] if info is None else list(info.node_ids)

    @contextmanager
    def _all_or_nothing(self, node_ids: Sequence[str], doc_ids: Sequence[str] = ()) -> Iterator[None]:
        """Leave docstore, index and bank as they are now if the block fails.

        Args:
            node_ids: Nodes that the block changes; those that it adds to the index need not be named.
            doc_ids: Documents whose hash it changes.
        """
        with self._one_writes, restored(self.docstore, node_ids, doc_ids):
            listed = self._index_struct.nodes
            try:
                with self._holding.unless_all_goes_well(node_ids):
                    yield
            except BaseException:
                added = set(self._index_struct.nodes).difference(listed, node_ids)
                self._index_struct.nodes = listed
                self._storage_context.index_store.add_index_struct(self._index_struct)
                for node_id in added:
                    self.docstore.delete_document(node_id, raise_error=False)
                self._holding.retract(added)
                raise

    def _fill(self) -> None:
        ids = self._index_struct.nodes
        self._holding.fill(ids, lambda: read_nodes(self.docstore, ids, len(ids)), is_elsewhere=self._is_elsewhere)

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """The documents whose nodes are in the index, by their id."""
        ids = self._index_struct.nodes
        nodes = read_nodes(self.docstore, ids, len(ids))
        sources = {node.ref_doc_id for node in nodes if node.ref_doc_id is not None}
        found = {doc_id: self.docstore.get_ref_doc_info(doc_id) for doc_id in sorted(sources)}
        return {doc_id: info for doc_id, info in found.items() if info is not None}

    def as_retriever(
        self,
        *,
        top_k: int | None = None,
        similarity_top_k: int | None = None,
        filters: MetadataFilters | None = None,
        node_ids: list[str] | None = None,
        doc_ids: list[str] | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> MemRecallRetriever:
        """Return a retriever over what the index holds when it is asked.

        Args:
            top_k: Nodes to return per question, exactly; `None` leaves it to the memory's settings.
            similarity_top_k: The same by the name it has with other indexes.
            filters: Which nodes may be recalled, by their metadata.
            node_ids: Only these nodes may be recalled.
            doc_ids: Only nodes of these documents may be recalled.
            verbose: Whether to print what index nodes lead to.
            **kwargs: Nothing else; LlamaIndex's signature has it.

        Raises:
            InputError: If both numbers are given, or an option cannot be used as given.
            TypeError: If there is another option.
        """
        refuse_names_of_others("as_retriever", kwargs)
        if kwargs:
            raise TypeError(f"as_retriever got an unexpected keyword argument {min(kwargs)!r}")
        if top_k is not None and similarity_top_k is not None:
            raise InputError("Expected one of top_k and similarity_top_k, got both.", "They mean the same: give one.")
        retriever = MemRecallRetriever(
            None,
            top_k=top_k if top_k is not None else similarity_top_k,
            filters=filters,
            node_ids=node_ids,
            doc_ids=doc_ids,
            verbose=verbose,
            callback_manager=self._callback_manager,
            object_map=self._object_map,
        )
        return retriever._over(partial(IndexSource, self, self._holding, self._fill), self._memory)

    def as_query_engine(self, llm: LLMType | None = None, **kwargs: Any) -> MemRecallQueryEngine:
        """Return a query engine over what the index holds when it is asked.

        Args:
            llm: Writes the answers; `None` for the memory's own reasoner.
            **kwargs: As for `as_retriever`, and what `MemRecallQueryEngine` takes of `streaming`, `response_mode`,
                `node_postprocessors`, `response_synthesizer`, templates and further options of LlamaIndex's.
        """
        recall = {name: kwargs.pop(name) for name in RETRIEVER_OPTIONS if name in kwargs}
        if recall.get("verbose"):
            kwargs["verbose"] = True
        return MemRecallQueryEngine(self.as_retriever(**recall), llm=checked_llm(llm), **kwargs)

    def as_chat_engine(
        self, chat_mode: ChatMode = ChatMode.BEST, llm: LLMType | None = None, **kwargs: Any
    ) -> BaseChatEngine:
        """Return a chat engine over what the index holds when it is asked.

        Args:
            chat_mode: `best` and `condense_plus_context` recall for the question made of chat and message, `context`
                for the message as it is, `condense_question` asks the query engine, `simple` recalls nothing.
            llm: Writes the replies; `None` for the memory's own backbone, through `BackboneLLM`.
            **kwargs: As for `as_query_engine` where that is asked, as for `as_retriever` otherwise, and what
                LlamaIndex's chat engine of that mode takes.

        Raises:
            InputError: If the mode is another one.
        """
        model = checked_llm(llm) or BackboneLLM(memory=self._memory.get())
        names = {*RETRIEVER_OPTIONS, *(ENGINE_OPTIONS if chat_mode == ChatMode.CONDENSE_QUESTION else ())}
        options = {name: kwargs.pop(name) for name in names - {"verbose"} if name in kwargs}
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
        self._holding.close()


def _stored(node: BaseNode) -> BaseNode:
    """Return a node that the docstore can write to a file; what an index node stands for is kept apart."""
    return node if isinstance(node, IndexNode) else storable(node)


def _copies(nodes: Sequence[_Node]) -> list[_Node]:
    """Return nodes that LlamaIndex may take the objects of index nodes out of."""
    return [node.model_copy() if isinstance(node, IndexNode) else node for node in nodes]


_TYPE = MemRecallStruct.get_type()
INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS[_TYPE] = MemRecallStruct
INDEX_STRUCT_TYPE_TO_INDEX_CLASS[_TYPE] = MemRecallIndex
