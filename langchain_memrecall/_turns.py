"""A conversation by turns: what the user said, and what the agent answered."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

SOURCE = "lc_source"
"""By this key of `additional_kwargs`, LangChain's middlewares mark human messages that no human wrote."""
_SUMMARY = "Here is a summary of the conversation to date:"
"""How such a message begins where LangChain did not mark it yet."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user said and all that followed it.

    Attributes:
        messages: The user's first.
    """

    messages: tuple[BaseMessage, ...]

    @property
    def id(self) -> str:
        """The id of the user's message."""
        return str(self.messages[0].id)

    @property
    def question(self) -> str:
        """What the user said."""
        return str(self.messages[0].text).strip()

    @property
    def text(self) -> str:
        """Who said what, or nothing if only one side did; no line of one looks like the other's."""
        said = (str(message.text).strip() for message in self.messages if isinstance(message, AIMessage))
        question, answer = _indented(self.question), _indented(" ".join(said).strip())
        return f"User: {question}\nAssistant: {answer}" if question and answer else ""

    @property
    def digest(self) -> str:
        """The same for the same words, whatever the messages' ids are."""
        return hashlib.sha256(self.text.encode(errors="surrogatepass")).hexdigest()[:32]


def turns_of(messages: Sequence[BaseMessage], heard: Collection[str] | None = None) -> list[Turn]:
    """Return the turns that a user began; what comes before the first, or after a summary, is left out.

    Args:
        messages: The conversation.
        heard: Ids of the human messages that users sent; `None` if nobody took them down.
    """
    turns: list[list[BaseMessage]] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            turns.append([message])
        elif turns:
            turns[-1].append(message)
    return [Turn(tuple(turn)) for turn in turns if is_said(turn[0], heard)]


def is_said(message: BaseMessage, heard: Collection[str] | None = None) -> bool:
    """Return whether a user said it: a human message that no middleware wrote."""
    if not isinstance(message, HumanMessage) or SOURCE in message.additional_kwargs:
        return False
    return (heard is None or message.id in heard) and not str(message.text).startswith(_SUMMARY)


def _indented(text: str) -> str:
    return "\n  ".join(text.splitlines())


@dataclass(frozen=True, slots=True)
class Stored:
    """A remembered turn.

    Attributes:
        doc_id: Of its document.
        message: The id of the user's message.
        digest: Of its words.
        thread: The conversation it was said in, if that had an id.
    """

    doc_id: str
    message: str
    digest: str
    thread: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes a memory agree with a conversation.

    Attributes:
        put: Turns to remember, by the id of their documents; `None` for a new one.
        delete: Documents of turns that are no part of the conversation any more.
    """

    put: tuple[tuple[str | None, Turn], ...]
    delete: tuple[str, ...]


def changes(turns: Sequence[Turn], stored: Sequence[Stored], done: Collection[str], thread: str | None) -> Changes:
    """Return how what is stored must change.

    A turn is known by its message's id, or else by its words: a client may send its whole history under new ids.

    Args:
        turns: The conversation as it is now, its present turn last.
        stored: What is remembered, in the order it was first said.
        done: Ids of messages whose turns are not to be remembered anew: that was done, and they may be forgotten since.
        thread: The conversation's id.
    """
    by_message = {known.message: place for place, known in enumerate(stored)}
    by_digest = {known.digest: place for place, known in enumerate(stored)}
    places = [by_message.get(turn.id, by_digest.get(turn.digest)) for turn in turns]
    put: list[tuple[str | None, Turn]] = []
    for turn, place in zip(turns, places, strict=True):
        if place is None and (turn is turns[-1] or turn.id not in done):
            put.append((None, turn))
        elif place is not None and stored[place].digest != turn.digest:
            put.append((stored[place].doc_id, turn))
    gone = [] if thread is None else _left_out(places, [known.thread == thread for known in stored])
    return Changes(tuple(put), tuple(stored[place].doc_id for place in gone))


def _left_out(places: Sequence[int | None], is_own: Sequence[bool]) -> list[int]:
    """Return the places of stored turns in whose stead the conversation has others now.

    They were said after a turn that is still there and is followed by an unknown one, and before the next known one.
    """
    gone: list[int] = []
    before: int | None = None
    is_new = False
    for place in [*places, len(is_own)]:
        if place is None:
            is_new = True
        elif place == len(is_own) or is_own[place]:
            if is_new and before is not None:
                gone += [other for other in range(before + 1, place) if is_own[other] and other not in places]
            before, is_new = place, False
    return gone
