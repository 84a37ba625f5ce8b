"""What the pydantic classes of both adapters share: which memory they use, and that they are strict about settings."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from memrecall_kv.hosts.arguments import check_memory
from memrecall_kv.hosts.lazy import LazyMemory


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
