"""Chat completions of a server in OpenAI's form: ours, whose banks are models, or anybody's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from memrecall_kv.remote import wire
from memrecall_kv.remote.address import Address
from memrecall_kv.remote.connection import Connection
from memrecall_kv.remote.memory import DEFAULT_TIMEOUT

_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Said:
    """What was written; `None` from a server that leaves it out."""

    content: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the completions."""

    message: Said


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What a completion cost, as far as the server tells."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Cited:
    """A span that an answer of ours rests on."""

    document: str
    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion.

    Attributes:
        choices: What was written, one at least.
        usage: What it cost.
        citations: Of our servers: what it rests on; `None` from others.
        found: Of our servers: whether the bank holds an answer; `None` from others.
    """

    choices: tuple[Choice, ...]
    usage: TokenCounts | None = None
    citations: tuple[Cited, ...] | None = None
    found: bool | None = None

    @property
    def text(self) -> str:
        """Return what was written."""
        return (self.choices[0].message.content or "").strip() if self.choices else ""


_COMPLETION = TypeAdapter(Completion)


class ChatModel:
    """A model behind a server, which is sent one user's message at a time and answers greedily.

    Threads may share it. A server that is busy is asked again, a bounded time.

    Args:
        url: Of the server, with or without `/v1` at its end.
        model: The model's name there.
        timeout: Seconds to wait for an answer.

    Raises:
        InputError: If the URL is none of a server's.
        ConfigError: If the key in `MEMRECALL_API_KEY` cannot be sent.
        MissingDependencyError: If httpx is not installed.
    """

    def __init__(self, url: str, model: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._model = model
        self._connection = Connection(Address.of(url, "none", None), timeout)

    def complete(self, text: str, *, limit: int | None = None, more: Mapping[str, Any] | None = None) -> Completion:
        """Return what the model says to a message.

        Args:
            text: The message.
            limit: Tokens of the answer at most.
            more: Further fields of the request.

        Raises:
            RemoteError: If the server cannot be reached, refuses, or answers in another form.
        """
        sent = {"model": self._model, "messages": [{"role": "user", "content": text}], "temperature": 0.0}
        body = self._connection.fetch(
            "POST", _PATH, json={**sent, **({"max_tokens": limit} if limit else {}), **(more or {})}
        )
        found: Completion = wire.read(_COMPLETION, body)
        return found

    def close(self) -> None:
        """Close the connections; the model can be asked again."""
        self._connection.close()
