"""What the pydantic classes of both adapters share: memory, bank and cache, and that they are strict about settings."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from memrecall_kv.hosts.arguments import Count, OwnNames, check_memory
from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.hosts.served import settled


class MemorySettings(BaseModel):
    """Names a `MemRecall`, which is loaded on first use; to be named before the host's class among the bases.

    Attributes:
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        memory: A `MemRecall` to use instead of loading one; not part of what is saved.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    name_or_path: str | None = None
    device: str = "auto"
    memory: Any = Field(default=None, exclude=True, repr=False)

    _memory: LazyMemory = PrivateAttr()

    @field_validator("memory")
    @classmethod
    def _memory_is_one(cls, memory: Any) -> Any:
        check_memory(memory)
        return memory

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the model without loading it."""
        super().model_post_init(context)
        self._memory = LazyMemory(self.memory, self.name_or_path, self.device)


class BankSettings(OwnNames, MemorySettings):
    """Names a bank besides, which is opened when it is needed; pydantic wants it first among the bases.

    Attributes:
        bank: A bank, its directory, the URL of a served one, or `None` for a temporary one.
        defer: Store texts alone; a question compresses what it comes near. The bank is then kept open for writing.
    """

    bank: Any = None
    defer: bool = False

    _bank: LazyBank = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the model and the bank, loading neither."""
        memory, bank = settled(self.memory, self.bank)
        super().model_post_init(context)
        self._memory = LazyMemory(memory, self.name_or_path, self.device)
        self._bank = LazyBank(bank, self._memory, defer=self.defer)


class RerankerSettings(OwnNames, MemorySettings):
    """Says how many are kept of what is found, and where it is compressed; pydantic wants it first among the bases.

    Attributes:
        top_n: How many to return, exactly, as long as there are as many; `None` leaves it to the memory's settings.
        cache_path: Directory of the cache; `None` for a temporary one, removed by `close` or at the end.
    """

    _place: ClassVar[str] = 'cache_path="cache"'

    top_n: Count | None = None
    cache_path: str | None = None

    _cache: TextCache = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the model and the cache, loading neither."""
        super().model_post_init(context)
        self._cache = TextCache(self.cache_path, self._memory)

    def clear_cache(self) -> None:
        """Forget every text that was ever judged, and leave nothing of it in the cache's files.

        Otherwise texts are kept until `close` in a temporary cache, and for ever in one with a path. What is needed
        again is compressed again.

        Raises:
            BankError: If the cache cannot be written.
        """
        self._cache.clear()

    def close(self) -> None:
        """Close the cache, and remove it if it was temporary."""
        self._cache.close()
