"""Long-term memory of an agent: what leaves the chat's window is compressed, and recalled when it matters."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.memory import BaseMemoryBlock
from memrecall_kv.filters import Compare, Operator
from memrecall_kv.hosts.arguments import Count
from memrecall_kv.hosts.settings import BankSettings
from memrecall_kv.types import Document

from llama_index_memrecall._memory_settings import MemorySettings
from llama_index_memrecall._scope import Scope
from llama_index_memrecall._walk import Found

_SESSION = "session_id"
_CHARACTERS_PER_TOKEN = 4


class MemRecallMemoryBlock(BankSettings, MemorySettings, BaseMemoryBlock[str]):
    """Keeps the turns that LlamaIndex's `Memory` flushes, and recalls those that matter to the latest user message.

    Sessions do not see each other: what was put under a session is recalled for that session alone.

    Attributes:
        name: Name of the block in the prompt.
        priority: 0 is never truncated; higher numbers go first when the token limit is reached.
        bank: A bank or its directory, to keep memories; `None` for a temporary one.
        top_k: Memories to recall, exactly; `None` leaves it to the memory's settings.
        name_or_path, device, memory: Which `MemRecall`; see `MemorySettings`.

    Raises:
        pydantic.ValidationError: If an argument is unknown or out of range.

    Example:
        ```python
        memory = Memory.from_defaults(memory_blocks=[MemRecallMemoryBlock(bank="chats.bank")])
        ```
    """

    name: str = Field(default="memrecall", description="Name of the memory block.")
    description: str | None = Field(default="Earlier turns of the conversation that matter now.")
    top_k: Count | None = None

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        """Return notes and turns that matter to the latest user message; nothing if none does."""
        asked = [message.content for message in messages or () if message.role == MessageRole.USER and message.content]
        if not asked or not asked[-1].strip():
            return ""
        return await asyncio.to_thread(self._recall, asked[-1], block_kwargs.get(_SESSION))

    async def _aput(self, messages: list[ChatMessage]) -> None:
        """Compress turns, as one memory, without blocking the loop."""
        await asyncio.to_thread(self._remember, messages)

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """Return the content without as many of its last memories as it takes, at about four characters a token."""
        parts = content.split("\n\n")
        excess = tokens_to_truncate * _CHARACTERS_PER_TOKEN
        while parts and excess > 0:
            excess -= len(parts.pop())
        return "\n\n".join(parts) or None

    def forget(self, session_id: str) -> None:
        """Delete all memories of a session, and leave nothing of them in the bank's files.

        Raises:
            BankError: If the bank cannot be written, or somebody's reading keeps deleted text in its log: then all is
                deleted, and `compact` removes what is left.
        """
        self._bank.forget(Compare(_SESSION, Operator.EQ, session_id))

    def close(self) -> None:
        """Close the bank if it was opened here, and remove it if it was temporary."""
        self._bank.close()

    def _remember(self, messages: list[ChatMessage]) -> None:
        by_session: dict[str | None, list[str]] = {}
        for message in messages:
            if message.content and message.content.strip():
                session = message.additional_kwargs.get(_SESSION)
                by_session.setdefault(session, []).append(f"{message.role.value}: {message.content}")
        documents = [_document(session, "\n".join(lines)) for session, lines in by_session.items()]
        if documents:
            self._bank.ingest(documents)

    def _recall(self, question: str, session_id: str | None) -> str:
        where = None if session_id is None else Compare(_SESSION, Operator.EQ, session_id)
        scope = Scope(self._bank.get(), where, lambda recalls: [])
        found = Found.begin(self._memory.get(), scope, question, top_k=self.top_k)
        for _ in found.events():
            pass
        notes = "\n".join(f"- {note.text}" for note in found.walk.notes.notes)
        return "\n\n".join([*([notes] if notes else []), *(recall.text.strip() for recall in found.walk.recalls)])


def _document(session: str | None, text: str) -> Document:
    # the same turns said again are the same memory
    digest = hashlib.sha256(f"{session}\0{text}".encode(errors="surrogatepass")).hexdigest()[:32]
    return Document(id=f"turns-{digest}", text=text, metadata={_SESSION: session})
