"""A served bank as adapters see it: a memory and a bank, of which each call is a request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from memrecall_kv.config import MemRecallConfig, ReasonerConfig
from memrecall_kv.errors import InputError
from memrecall_kv.filters import AmongIds, And, Not
from memrecall_kv.recall.stages import Stages
from memrecall_kv.remote.address import is_url
from memrecall_kv.remote.memory import DEFAULT_TIMEOUT, RemoteMemRecall
from memrecall_kv.types import (
    Answer,
    Document,
    Done,
    Event,
    IngestReport,
    Metadata,
    Note,
    Noted,
    Opened,
    Recall,
    Scored,
    Token,
    Where,
    WorkingMemory,
    Writer,
)

if TYPE_CHECKING:  # both import torch
    from memrecall_kv.bank.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall


@dataclass(frozen=True, slots=True)
class ServedBackbone:
    """The name of a model that is elsewhere."""

    name: str

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse what takes the model itself."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise InputError("Expected a model here, and it is on the server.", "Pass llm=, or use a local memory.")


class ServedBank:
    """What adapters ask of a bank.

    Args:
        remote: The client.
        is_owned: Whether the adapter made it, and closes it.
    """

    def __init__(self, remote: RemoteMemRecall, *, is_owned: bool = False) -> None:
        self.remote, self._is_owned = remote, is_owned
        self._read: dict[str, Document] | None = None

    @property
    def path(self) -> str:
        """Return the bank's URL, which stands for it where settings are saved."""
        return self.remote.bank_url

    def for_a_question(self) -> ServedBank:
        """Return a bank that asks for each document once."""
        bank = ServedBank(self.remote)
        bank._read = {}
        return bank

    def __contains__(self, doc_id: object) -> bool:
        """Return whether a document is there."""
        try:
            self.document(str(doc_id))
        except InputError:
            return False
        return True

    def document(self, doc_id: str) -> Document:
        """Return a document; raises `InputError` if it is not there."""
        if self._read is None:
            return self.remote.document(doc_id)
        if doc_id not in self._read:
            self._read[doc_id] = self.remote.document(doc_id)
        return self._read[doc_id]

    def metadata(self, doc_id: str) -> Metadata:
        """Return a document's metadata; raises like `document`."""
        return self.document(doc_id).metadata

    def ids(self, where: Where | None = None) -> list[str]:
        """Return the ids of the documents that match."""
        return self.remote.ids(where)

    def delete_many(self, doc_ids: Iterable[str]) -> None:
        """Delete documents; raises `InputError` if one is not there."""
        self.remote.delete(*doc_ids)

    def compact(self) -> int:
        """Free the space of what was deleted; return the bytes."""
        return self.remote.compact()

    def release(self) -> None:
        """Close the connections if nobody else made them."""
        if self._is_owned:
            self.remote.close()


class ServedWalk:
    """One question's way through a served bank, as `recall.loop.Walk` is through one that is here.

    Attributes:
        question: What is asked.
        recalls: What was opened so far.
        is_answered: Whether the server goes on to write an answer, which `conclusion` yields; set it before `events`.
        done: What the server says at the end of it all; `None` until then.
        stages: What is taken here, where the answer is written here.
    """

    def __init__(
        self,
        remote: RemoteMemRecall,
        question: str,
        top_k: int | None,
        where: Where | None,
        unit: Callable[[Recall], str] | None,
    ) -> None:
        self.question, self.is_answered = question, False
        self.recalls: list[Recall] = []
        self.done: Answer | None = None
        self.stages = Stages()
        self._remote, self._top_k, self._where, self._unit = remote, top_k, where, unit
        self._notes: list[Note] = []
        self._steps: list[Scored] = []
        self._ahead: list[Token | Done] = []
        self._source: Generator[Event, None, None] | None = None

    @property
    def notes(self) -> WorkingMemory:
        """Return what was learned so far."""
        return WorkingMemory(tuple(self._notes))

    @property
    def has_found(self) -> bool:
        """Return whether a block was opened that the gate believes in."""
        threshold = self._remote.reader.threshold
        return any(recall.gate_probability > threshold for recall in self.recalls)

    @property
    def cost(self) -> Answer:
        """Return what is known of the answer: cost and decisions."""
        if self.done is None:
            raise InputError("Expected a walk that has ended.", "Walk it to its end.")
        return self.done

    def events(self) -> Generator[Event, None, None]:
        """Yield what happens until an answer begins."""
        ask = self._remote.stream if self.is_answered else self._remote.walk
        source = ask(self.question, top_k=self._top_k, where=self._where)
        try:
            for event in source:
                if isinstance(event, Token | Done):
                    self._ahead.append(event)
                    break
                self._keep(event)
                yield event
        except BaseException:
            source.close()
            raise
        self._source = source
        for event in self._ahead:
            self._finish(event)
        yield from self._open_more_units()

    def look_again(self) -> Iterator[Event]:
        """Yield nothing: a server looks again by itself, and who writes here is not its reader."""
        yield from ()

    def conclusion(self) -> Generator[Event, None, None]:
        """Yield the answer, whose beginning `events` came upon."""
        source = self._source
        if source is None or not self.is_answered:
            source, self._ahead = self._remote.stream(self.question, top_k=self._top_k, where=self._where), []
        with closing(source):
            yield from self._ahead
            for event in source:
                if isinstance(event, Opened | Noted):  # a second look
                    self._keep(event)
                self._finish(event)
                yield event

    def _keep(self, event: Event) -> None:
        match event:
            case Opened(recall):
                self.recalls.append(replace(recall, step=len(self.recalls)))
            case Noted(note):
                self._notes.append(note)
            case _:
                pass

    def _finish(self, event: Event) -> None:
        if isinstance(event, Done):
            self.done = event.answer

    def _open_more_units(self) -> Iterator[Event]:
        """Open blocks of further units until there are `top_k` of them, or no more."""
        if self._unit is None or self._top_k is None:
            return
        while (missing := self._top_k - len({self._unit(recall) for recall in self.recalls})) > 0:
            whole = {recall.chunk.doc_id for recall in self.recalls if self._unit(recall) != recall.chunk.id}
            if not whole:
                return  # each block counts by itself: there are no more
            others = Not(AmongIds(frozenset(whole)))
            where = others if self._where is None else And((self._where, others))
            before = len(self.recalls)
            with closing(self._remote.walk(self.question, top_k=missing, where=where)) as events:
                for event in events:
                    if isinstance(event, Opened):
                        self._keep(event)
                        yield event
            if len(self.recalls) == before:
                return


class ServedMemory:
    """What adapters ask of a `MemRecall`; the bank they name is the one that is served.

    Args:
        remote: The client.
    """

    def __init__(self, remote: RemoteMemRecall) -> None:
        self._remote = remote

    @property
    def config(self) -> MemRecallConfig:
        """Return the settings that answers tell of; all others are the server's own."""
        reader = self._remote.reader
        return MemRecallConfig(reasoner=ReasonerConfig(not_found=reader.not_found, readback=reader.readback))

    @property
    def backbone(self) -> ServedBackbone:
        """Return the model's name."""
        return ServedBackbone(self._remote.reader.backbone)

    def open_bank(self, path: str | Path, *, read_only: bool = False) -> NoReturn:
        """Refuse: what comes with a question is compressed nowhere."""
        raise InputError(
            "Expected a question about the bank, got texts that would be compressed here, and the model is elsewhere.",
            "Add them to the bank, use a local memory, or pass llm= where an answer is written from given texts.",
        )

    def ingest(
        self, bank: ServedBank, documents: Iterable[Document], *, defer: bool = False, show_progress: bool = False
    ) -> IngestReport:
        """Add documents to the bank."""
        if defer:
            raise InputError(
                "Expected a bank that is here, got a served one to defer in.", "Start the server with --defer."
            )
        return bank.remote.ingest(documents, show_progress=show_progress)

    def walk(
        self, bank: ServedBank, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> Generator[Event, None, None]:
        """Yield what `MemRecall.walk` does."""
        yield from bank.remote.walk(question, top_k=top_k, where=where)

    def walk_documents(
        self, bank: ServedBank, question: str, top_n: int | None, where: Where | None
    ) -> Generator[Event, None, None]:
        """Yield what `hosts.documents.walk_documents` does."""
        yield from bank.remote.walk(question, top_n=top_n, where=where)

    def stream(
        self,
        bank: ServedBank,
        question: str,
        *,
        top_k: int | None = None,
        where: Where | None = None,
        write: Writer | None = None,
    ) -> Generator[Event, None, None]:
        """Yield what `MemRecall.stream` does."""
        if write is None:
            yield from bank.remote.stream(question, top_k=top_k, where=where)
            return
        walk = self.begin(bank, question, top_k=top_k, where=where)
        yield from walk.events()
        yield from self.conclude(walk, write=write)

    def begin(
        self,
        bank: ServedBank,
        question: str,
        *,
        top_k: int | None = None,
        where: Where | None = None,
        search: str | None = None,
        unit: Callable[[Recall], str] | None = None,
    ) -> ServedWalk:
        """Return a question's way through the bank; as `MemRecall.begin`, but judged by the question itself."""
        if search is not None:
            raise InputError("Expected a question alone, got another text to search by.", "Use a local memory.")
        return ServedWalk(bank.remote, question, top_k, where, unit)

    def conclude(self, walk: ServedWalk, *, write: Writer | None = None) -> Generator[Event, None, None]:
        """Yield the answer to a question whose walk has ended."""
        if write is None:
            yield from walk.conclusion()
            return
        from memrecall_kv.recall.answer import Reply  # it imports torch
        from memrecall_kv.recall.quotes import quotes_of

        reply = Reply(walk, self.config.reasoner, write)  # type: ignore[arg-type]  # all that it looks at is there
        yield from reply.events()
        quotes = quotes_of(reply.text, walk.question, walk.recalls) if reply.found else ()
        usage = replace(walk.cost.usage, stages=(*walk.cost.usage.stages, *walk.stages.taken))
        cost = replace(walk.cost, usage=usage, quotes=quotes)
        yield Done(replace(cost, text=reply.text, found=reply.found, grounded=reply.grounded))


def at_url(url: str, bank: str | None, api_key: str | None, timeout: float | None) -> tuple[ServedMemory, ServedBank]:
    """Return a served bank for an adapter that closes it; arguments and errors as of `RemoteMemRecall`."""
    remote = RemoteMemRecall(url, bank, api_key=api_key, timeout=DEFAULT_TIMEOUT if timeout is None else timeout)
    return ServedMemory(remote), ServedBank(remote, is_owned=True)


def settled(memory: Any, bank: Any) -> tuple[MemRecall | None, MemoryBank | str | Path | None]:
    """Return memory and bank as they are, or those that are asked instead where one of them is served.

    Raises:
        InputError: If a bank is served and the memory is here, or the other way round.
    """
    if isinstance(memory, ServedMemory) and isinstance(bank, ServedBank):
        return memory, bank  # type: ignore[return-value]  # adapters ask nothing of them that is not there
    if isinstance(memory, RemoteMemRecall):
        if bank is not None and getattr(bank, "path", bank) != memory.bank_url:
            raise InputError(
                f"Expected the bank of {memory!r}, got {bank!r} beside it.", "Leave one out: a client has its bank."
            )
        return ServedMemory(memory), ServedBank(memory)  # type: ignore[return-value]  # as above
    if not is_url(bank) and not isinstance(bank, ServedBank):
        return memory, bank
    if memory is not None and not isinstance(memory, ServedMemory):
        raise InputError("Expected a bank that is here, got a served one beside a memory.", "Leave the memory out.")
    if isinstance(bank, ServedBank):
        return ServedMemory(bank.remote), bank  # type: ignore[return-value]  # as above
    return at_url(str(bank), None, None, None)  # type: ignore[return-value]  # as above
