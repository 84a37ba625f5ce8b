"""What both classes of this package share: their settings, saving and loading."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from langchain_core.documents import Document as HostDocument
from langchain_core.load import Serializable
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.served import at_url
from memrecall_kv.hosts.settings import BankSettings
from pydantic import ConfigDict, field_serializer, field_validator

from langchain_memrecall._convert import check_documents, to_documents
from langchain_memrecall._filters import to_where
from langchain_memrecall._growing import check_bank
from langchain_memrecall._revive import revived

if TYPE_CHECKING:  # the bank imports torch
    from memrecall_kv import MemoryBank, MemRecall

_ARGUMENTS = frozenset({"filter", "k", "top_k", "documents", "search_kwargs"})

Input = TypeVar("Input")
Output = TypeVar("Output")


def check_config(config: RunnableConfig | None) -> RunnableConfig | None:
    """Return the config of a call.

    Raises:
        InputError: If it holds an argument of ours, which LangChain would drop: a filter in the wrong place must not
            mean no filter.
    """
    misplaced = sorted(_ARGUMENTS & (config or {}).keys())
    if misplaced:
        raise InputError(
            f"Expected a config, got {', '.join(map(repr, misplaced))} in it.",
            'Pass it by name: invoke(question, filter={"team": "finance"}).',
        )
    return config


def _check_each(config: RunnableConfig | Sequence[RunnableConfig] | None) -> None:
    for one in config if isinstance(config, Sequence) else [config]:
        check_config(one)


class OverBank(BankSettings, RunnableSerializable[Input, Output], Generic[Input, Output]):
    """A runnable over a memory bank.

    LangChain runs the inputs of a batch in threads, `max_concurrency` of them at a time; what they need of the one
    model at the same time is done together.

    Attributes:
        bank: A bank, or the directory of one, which is opened for reading on first use; or the URL of a served one.
        filter: Metadata that a document must have to be recalled; a filter in a call narrows it further.
        metadata_keys: Metadata that models judge and read with the text of a document that is given here.
        name_or_path, device, memory: Which `MemRecall`; see `MemorySettings`.
    """

    # Once more, because the host's own, which ignores unknown arguments, is merged last.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _needs_bank: ClassVar[bool] = True

    bank: Any
    filter: dict[str, Any] | None = None
    metadata_keys: tuple[str, ...] = ()

    @field_validator("bank")
    @classmethod
    def _bank_is_one(cls, bank: Any) -> Any:
        if bank is not None or cls._needs_bank:
            check_bank(bank)
        return bank

    @field_validator("filter")
    @classmethod
    def _filter_is_one(cls, condition: dict[str, Any] | None) -> dict[str, Any] | None:
        to_where(condition)
        return condition

    @field_serializer("bank")
    def _bank_as_path(self, bank: Any) -> str | None:
        return None if bank is None else str(bank if isinstance(bank, (str, Path)) else bank.path)

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """Return what LangChain saves in place of an open bank: its path."""
        return {} if self.bank is None else {"bank": self._bank_as_path(self.bank)}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: the settings can be saved with `langchain_core.load.dumps`."""
        return True

    @classmethod
    def load(
        cls,
        data: str | Mapping[str, Any],
        *,
        memory: MemRecall | None = None,
        allowed_objects: Sequence[type[Serializable]] = (),
    ) -> Self:
        """Return what `langchain_core.load.dumps` or `dumpd` saved.

        Args:
            data: The saved settings.
            memory: What to use instead of loading a model by name: one that was passed is not saved.
            allowed_objects: Further classes that may be made, such as that of a saved `llm`.

        Raises:
            ValueError: If `data` holds any other class.
        """
        saved = json.loads(data) if isinstance(data, str) else data
        loaded = revived(saved, [cls, *allowed_objects])
        if not isinstance(loaded, cls):
            raise InputError(f"Expected a saved {cls.__name__}, got {type(loaded).__name__}.", "Load it by its class.")
        return loaded if memory is None else cls(**{**loaded._settings(), "memory": memory})

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    @classmethod
    def from_url(
        cls,
        url: str,
        bank: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        **settings: Any,
    ) -> Self:
        """Return a runnable over a bank that `memrecall-kv serve` serves; no model is loaded here.

        What is saved of it, or pickled, is the bank's URL; the key then comes from the environment.

        Args:
            url: Of the server, or of the bank.
            bank: The bank's name on the server.
            api_key: For a server with keys; `None` for that in `MEMRECALL_API_KEY`.
            timeout: Seconds to wait for the next sign of the server's.
            **settings: As for the class.

        Raises:
            InputError: If URL or name is none.
        """
        memory, served = at_url(url, bank, api_key, timeout)
        return cls(bank=served, memory=memory, **settings)

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[HostDocument],
        *,
        bank: MemoryBank | str | Path | None = None,
        show_progress: bool = False,
        **settings: Any,
    ) -> Self:
        """Return a runnable over documents, compressing those the bank does not hold yet.

        Args:
            documents: What to remember. One whose id is in the bank replaces what is there; one without
                text is left out; one without an id is known by its content.
            bank: Where to: a bank, or a directory that is created if need be; `None` for a temporary one, removed by
                `close` or with the object.
            show_progress: Whether to draw a progress bar.
            **settings: As for the class.

        Raises:
            InputError: If no document has text, or two different ones share an id; nothing is written then.
        """
        listed = check_documents(documents)
        to_documents(listed)  # refused before anything is made
        runnable = cls._temporary(settings) if bank is None else cls(bank=bank, **settings)
        runnable._bank.ingest(to_documents(listed, runnable.metadata_keys), show_progress=show_progress)
        return runnable

    @classmethod
    def _temporary(cls, settings: Mapping[str, Any]) -> Self:
        with ExitStack() as undo:
            directory = tempfile.mkdtemp(prefix="memrecall-")
            undo.callback(shutil.rmtree, directory)
            runnable = cls(bank=directory, **settings)
            undo.pop_all()
        runnable._bank.remove_at_end()
        return runnable

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the settings: a copy opens the bank itself; a `memory` that was passed is not pickled."""
        return partial(type(self), **{**self._settings(), "bank": self._bank_as_path(self.bank), "memory": None}), ()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that shares model and bank."""
        return type(self)(**self._settings())

    def close(self) -> None:
        """Close the bank if this object opened it, and remove it if it was temporary."""
        self._bank.close()

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Runnable[Input, Output]:
        """Return this with a config for every call."""
        check_config(cast("RunnableConfig", {**(config or {}), **kwargs}))
        return super().with_config(config, **kwargs)

    def batch(
        self, inputs: list[Input], config: RunnableConfig | list[RunnableConfig] | None = None, **options: Any
    ) -> list[Output]:
        """Return one output per input, in order; options as for any runnable, such as `return_exceptions`."""
        _check_each(config)
        return super().batch(inputs, config, **options)

    async def abatch(
        self, inputs: list[Input], config: RunnableConfig | list[RunnableConfig] | None = None, **options: Any
    ) -> list[Output]:
        """Return what `batch` returns, without blocking the loop."""
        _check_each(config)
        return await super().abatch(inputs, config, **options)

    def batch_as_completed(
        self, inputs: Sequence[Input], config: RunnableConfig | Sequence[RunnableConfig] | None = None, **options: Any
    ) -> Iterator[tuple[int, Any]]:
        """Yield each output as soon as it is there, with the place of its input."""
        _check_each(config)
        yield from super().batch_as_completed(inputs, config, **options)

    async def abatch_as_completed(
        self, inputs: Sequence[Input], config: RunnableConfig | Sequence[RunnableConfig] | None = None, **options: Any
    ) -> AsyncIterator[tuple[int, Any]]:
        """Yield what `batch_as_completed` yields, without blocking the loop."""
        _check_each(config)
        async for pair in super().abatch_as_completed(inputs, config, **options):
            yield pair
