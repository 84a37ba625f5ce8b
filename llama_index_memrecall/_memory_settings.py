"""What the pydantic classes of this package share."""

from __future__ import annotations

from functools import partial
from typing import Any

from memrecall_kv.hosts.settings import MemorySettings as CoreSettings


class MemorySettings(CoreSettings):
    """Names a `MemRecall`, as the core's class does, and can be pickled: pipelines send their components to workers."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings alone: a copy loads its model by name, and what is temporary it makes anew."""
        kept = [name for name, field in type(self).model_fields.items() if not field.exclude]
        return partial(type(self), **{name: getattr(self, name) for name in kept}), ()
