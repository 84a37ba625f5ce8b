"""What the pydantic classes of this package share: which memory they use, and that they are strict about settings."""

from __future__ import annotations

from functools import partial
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from memrecall_kv.lazy import LazyMemory


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

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the model without loading it."""
        super().model_post_init(context)
        self._memory = LazyMemory(self.memory, self.name_or_path, self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings alone: a copy loads its model by name, and what is temporary it makes anew."""
        kept = [name for name, field in type(self).model_fields.items() if not field.exclude]
        return partial(type(self), **{name: getattr(self, name) for name in kept}), ()
