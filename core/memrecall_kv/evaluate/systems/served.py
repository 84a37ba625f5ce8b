"""Systems that answer through an endpoint in OpenAI's form: a bank that is served, and any server's model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import Field

from memrecall_kv.config import Config
from memrecall_kv.evaluate.systems.completer import Completer, Request
from memrecall_kv.evaluate.systems.memagent import LoopConfig
from memrecall_kv.evaluate.systems.system import RANKED, Prepared, Reply, distinct
from memrecall_kv.evaluate.systems.windows import ends
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall import prompts
from memrecall_kv.remote.chat import ChatModel, Completion
from memrecall_kv.remote.memory import RemoteMemRecall
from memrecall_kv.types import Document


class EndpointConfig(Config):
    """Where answers come from.

    Attributes:
        url: Of the server, as `http://localhost:8000/v1`; its key is read from `MEMRECALL_API_KEY`.
        model: The model's name there, or the bank's.
    """

    url: str
    model: str


class FullContextConfig(EndpointConfig):
    """How much is sent.

    Attributes:
        context_tokens: Tokens of the documents at most, as the pipeline's tokenizer counts them.
        answer_tokens: Tokens of the answer at most.
    """

    context_tokens: int = Field(default=30_000, ge=8)
    answer_tokens: int = Field(default=64, ge=1)


class ServedLoopConfig(EndpointConfig, LoopConfig):
    """A server, and how much is read and written at once."""


class ServedBank:
    """A bank behind a server of ours: documents are added to it, and questions sent as to any chat model.

    Args:
        config: The server and the name of its bank. What else the bank holds is not recalled.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._bank, self._chat = RemoteMemRecall(config.url, config.model), ChatModel(config.url, config.model)
        self._prepared: list[str] = []

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Add the documents to the bank; see `System`."""
        self._prepared = []
        before = self._bank.stats()
        report = self._bank.ingest(self._noting(documents))
        known = report.documents_unchanged + report.chunks_reused > 0
        size = self._bank.stats().file_bytes - before.file_bytes
        return Prepared(size, report.source_tokens, reused=before.blocks > 0 and known)

    def _noting(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            self._prepared.append(document.id)
            yield document

    def answer(self, question: str) -> Reply:
        """Ask the bank; see `System`."""
        said = self._chat.complete(question, more={"where": {"ids": self._prepared}})
        evidence = distinct(each.document for each in said.citations or ())
        cited = tuple(each.text for each in said.citations or ())
        return _reply(said, evidence=evidence, ranked=evidence[:RANKED], cited=cited)

    def close(self) -> None:
        """Close the connections; the bank keeps its documents."""
        self._bank.close()
        self._chat.close()


class ServedFullContext:
    """Any server's model, which is sent the documents with every question, cut in the middle to what it reads.

    Args:
        memory: Whose tokenizer counts.
        config: The server, and how much it is sent.
    """

    def __init__(self, memory: MemRecall, config: FullContextConfig) -> None:
        self._backbone, self._config = memory.backbone, config
        self._chat = ChatModel(config.url, config.model)
        self._text = ""

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Cut the documents; see `System`."""
        self._text = self._backbone.decode(ends(documents, self._backbone, self._config.context_tokens))
        return Prepared(len(self._text.encode()))

    def answer(self, question: str) -> Reply:
        """Send all and ask; see `System`."""
        asked = prompts.answer(question, "", [self._text])
        return _reply(self._chat.complete(asked, limit=self._config.answer_tokens))

    def close(self) -> None:
        """Close the connections."""
        self._chat.close()


class ServedCompleter(Completer):
    """Any server's model in the place of the backbone; what is asked for side by side is sent at once.

    Args:
        chat: The model.
    """

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat

    def write(self, requests: Sequence[Request]) -> list[str]:
        """Return the replies; raises `RemoteError`."""
        with ThreadPoolExecutor(len(requests)) as pool:
            written = list(pool.map(lambda request: self._chat.complete(request.text, limit=request.limit), requests))
        for request, said in zip(requests, written, strict=True):
            if said.usage is not None:
                request.tally.prompt_tokens += said.usage.prompt_tokens
                request.tally.generated_tokens += said.usage.completion_tokens
        return [said.text for said in written]


def _reply(
    said: Completion,
    *,
    evidence: tuple[str, ...] | None = None,
    ranked: tuple[str, ...] = (),
    cited: tuple[str, ...] | None = None,
) -> Reply:
    return Reply(
        said.text,
        not prompts.is_nothing(said.text) if said.found is None else said.found,
        evidence,
        ranked,
        tokens_read=said.usage.prompt_tokens if said.usage else 0,
        tokens_written=said.usage.completion_tokens if said.usage else 0,
        cited=cited,
    )
