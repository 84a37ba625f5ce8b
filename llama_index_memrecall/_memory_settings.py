"""What the pydantic classes of this package share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from memrecall_kv.hosts.settings import BankSettings, RerankerSettings
from memrecall_kv.hosts.settings import MemorySettings as CoreSettings


class MemorySettings(CoreSettings):
    """Names a `MemRecall`, as the core's class does, and can be pickled: pipelines send their components to workers."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings alone: a copy loads its model by name, and what is temporary it makes anew.

        A relative directory is the one it was here: the copy may live elsewhere.
        """
        kept = {name: getattr(self, name) for name, field in type(self).model_fields.items() if not field.exclude}
        if isinstance(self, BankSettings) and isinstance(self.bank, str | Path):
            kept["bank"] = str(self._bank.path)
        if isinstance(self, RerankerSettings) and self.cache_path is not None:
            kept["cache_path"] = str(self._cache.path)
        return partial(type(self), **kept), ()
