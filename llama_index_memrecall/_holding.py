"""What one index keeps in a bank: written all or not at all, taken over whole, and never mixed with another index's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode
from memrecall_kv.errors import BankError, BankFormatError, InputError
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.types import Document, Metadata

from llama_index_memrecall._convert import is_of_index, owner_of, to_documents

if TYPE_CHECKING:  # the bank imports torch
    from memrecall_kv.bank import MemoryBank


class Holding:
    """The nodes of one index in a bank. A bank belongs to the index that was built into it last.

    Args:
        owner: The index's name, stored with each node.
        bank: The bank; what others than indexes put there is left alone.
        memory: What compresses.
    """

    def __init__(self, owner: str, bank: LazyBank, memory: LazyMemory) -> None:
        self._owner = owner
        self.bank = bank
        self._memory = memory
        self._is_filled = False
        self._lock = threading.RLock()
        self._writable: MemoryBank | None = None
        self._doomed: set[str] = set()
        self._depth = 0

    def claim(self, nodes: Sequence[BaseNode], *, show_progress: bool = False) -> None:
        """Store the nodes of an index that is built, and delete what an index built earlier left in the bank.

        Raises:
            InputError: If there are no nodes, and another index's in the bank: to replace it by nothing is a mistake.
        """
        with self.unless_all_goes_well(()) as writable:
            others = writable.ids(self._is_of_another)
            if others and not nodes:
                raise InputError(
                    f"Expected nodes to replace those of the index in {writable.path}, got none.",
                    "Open a stored index with load_index_from_storage, or give an empty directory.",
                )
            self.put(nodes, show_progress=show_progress)
            self._doomed.update(name for name in others if self._is_of_another(name, writable.metadata(name)))
            self._is_filled = True

    def put(self, nodes: Sequence[BaseNode], *, show_progress: bool = False) -> None:
        """Store nodes, compressing what is new; one that has become blank is deleted."""
        documents = to_documents(nodes, owner=self._owner)
        kept = {document.id for document in documents}
        with self.unless_all_goes_well([node.node_id for node in nodes]) as writable:
            self._memory.get().ingest(writable, documents, defer=self.bank.defer, show_progress=show_progress)
            self._doomed.difference_update(kept)
            self.drop({node.node_id for node in nodes} - kept)

    def drop(self, node_ids: Collection[str]) -> None:
        """Delete nodes of this index, when all that is done with it went well; what it does not hold is no mistake."""
        with self.unless_all_goes_well(()) as writable:
            self._doomed.update(self._own(writable, node_ids))

    def retract(self, node_ids: Collection[str]) -> None:
        """Delete nodes of this index at once: they were put there by what failed since."""
        with self._writing() as writable:
            writable.delete_many(self._own(writable, node_ids))

    @contextmanager
    def unless_all_goes_well(self, node_ids: Collection[str]) -> Iterator[MemoryBank]:
        """Open the bank for writing, and put back what it held under these ids if the block fails.

        What is dropped inside is deleted at the end of the outermost such block: a deleted block cannot be put back.
        """
        with self._writing() as writable:
            before = [writable.document(node_id) for node_id in dict.fromkeys(node_ids) if node_id in writable]
            self._depth += 1
            try:
                yield writable
                if self._depth == 1:
                    writable.delete_many(sorted(node_id for node_id in self._doomed if node_id in writable))
            except BaseException:
                for node_id in set(node_ids).difference(document.id for document in before):
                    if node_id in writable:
                        _delete_but_for_blocks(writable, node_id)
                self._memory.get().ingest(writable, before, defer=self.bank.defer)  # their blocks are still there
                raise
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._doomed.clear()

    def confirm(self, node_ids: Sequence[str]) -> bool:
        """Return whether the bank holds one of these nodes of the index.

        Raises:
            BankError: If another index was built into the bank.
        """
        if not node_ids:
            return False
        bank = self._made()
        held = next((node_id for node_id in node_ids if node_id in bank), None)
        if held is None:
            is_of_another = bool(bank.ids(self._is_of_another))
        else:
            is_of_another = self._is_of_another(held, bank.metadata(held))
        if is_of_another:
            raise BankError(
                f"{bank.path} held this index's nodes, and now holds those of another index.",
                "Give each index a bank of its own, and build this one again, or load it with another bank=.",
            )
        return held is not None

    def fill(
        self, node_ids: Sequence[str], load: Callable[[], Sequence[BaseNode]], *, is_elsewhere: bool = False
    ) -> None:
        """Compress an index's nodes again if the bank has none of them; what is deleted later is not made again.

        Where it has some, what is missing was deleted: by another copy of the index, which may be newer.

        Args:
            node_ids: What the index holds.
            load: Returns these nodes.
            is_elsewhere: Whether the bank is another one than the index had, and may lack some.

        Raises:
            BankError: If another index was built into the bank.
        """
        is_held = self.confirm(node_ids)
        if self._is_filled:
            return  # without waiting for who writes
        with self._lock:
            if not self._is_filled and node_ids:
                nodes = load()
                stale = nodes if is_elsewhere or not is_held else self._shown_otherwise(nodes)
                if stale:
                    self.put(stale)
            self._is_filled = True

    def close(self) -> None:
        """Close the bank; what was in a temporary one is compressed again when it is needed."""
        with self._lock:
            self.bank.close()
            self._is_filled = False

    @contextmanager
    def _writing(self) -> Iterator[MemoryBank]:
        """Open the bank for writing, once for all that is done inside."""
        with self._lock:
            if self._writable is not None:
                yield self._writable
                return
            with self.bank.writing() as writable:
                self._writable = writable
                try:
                    yield writable
                finally:
                    self._writable = None

    def _made(self) -> MemoryBank:
        try:
            return self.bank.get()
        except BankFormatError:  # there is none yet
            with self.bank.writing():
                pass
            return self.bank.get()

    def _shown_otherwise(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        """Return the nodes whose text the bank has under another heading; another text is a newer copy's."""
        bank, changed = self._made(), set()
        for document in to_documents(nodes, owner=self._owner):
            if document.id in bank:
                held = bank.document(document.id)
                if held.text == document.text and not bank.holds(document):
                    changed.add(document.id)
        return [node for node in nodes if node.node_id in changed]

    def _own(self, bank: MemoryBank, node_ids: Collection[str]) -> list[str]:
        return [node_id for node_id in node_ids if node_id in bank and owner_of(bank.metadata(node_id)) == self._owner]

    def _is_of_another(self, node_id: str, metadata: Metadata) -> bool:
        return is_of_index(metadata) and owner_of(metadata) != self._owner


def _delete_but_for_blocks(bank: MemoryBank, node_id: str) -> None:
    """Delete a node and leave its blocks until the bank is compacted: the next try finds them."""
    # a text that is replaced leaves its blocks, one that is deleted does not
    bank.put_document(Document(node_id, ""), [])
    bank.delete(node_id)
