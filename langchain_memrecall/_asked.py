"""What a runnable is asked: the forms its input may take, and what is read out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document as HostDocument
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from memrecall_kv.errors import InputError
from typing_extensions import TypedDict  # pydantic asks for this one below Python 3.12

from langchain_memrecall._convert import check_documents

_ANSWER_CHARACTERS = 300
"""How much of an answer goes before the question that follows it: enough for who and what it was about."""


class MemRecallInput(TypedDict, total=False):
    """A question as a dict; `input` or `question` must be there.

    Attributes:
        input: The question.
        question: The same under another name.
        documents: Answer from these instead of the bank.
        filter: Metadata that a document must have to be recalled.
        chat_history: Earlier messages, for a follow-up question.
    """

    input: str
    question: str
    documents: list[HostDocument]
    filter: dict[str, Any] | None
    chat_history: list[BaseMessage]


class MemRecallOutput(TypedDict):
    """An answer and what it rests on.

    Attributes:
        input: The question.
        context: The recalled chunks, in order of recall.
        answer: The answer.
        usage: What it cost.
        trace: Every decision of the gate.
        quotes: What each claim of the answer rests on, as `memrecall_kv.Quote` has it.
    """

    input: str
    context: list[HostDocument]
    answer: str
    usage: dict[str, Any]
    trace: list[dict[str, Any]]
    quotes: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with all that came with it.

    Attributes:
        question: As it was asked.
        condition: The filter of the call.
        documents: What to answer from; `None` for the bank.
        chat_history: Earlier messages.
    """

    question: str
    condition: Mapping[str, Any] | None = None
    documents: tuple[HostDocument, ...] | None = None
    chat_history: tuple[BaseMessage, ...] = ()

    @property
    def in_full(self) -> str:
        """Return the question as the memory is asked it: a follow-up after the answer it follows.

        The answer says what "she" and "it" are. The earlier question is left out: a small model would answer that.
        """
        said = [str(message.text).strip() for message in self.chat_history if isinstance(message, AIMessage)]
        if not self.question.strip() or not said or not said[-1]:
            return self.question
        return f"{said[-1][:_ANSWER_CHARACTERS]} {self.question}"


def to_asked(given: Any) -> Asked:
    """Return what an input asks; of a prompt or a message, as a chain hands them on, the last message does.

    Raises:
        InputError: If the input is nothing of this, nor a text, nor a dict of the keys of `MemRecallInput`, each of
            its type. An unknown key is refused: a mistyped filter must not mean no filter.
    """
    if isinstance(given, str):
        return Asked(given)
    if isinstance(given, PromptValue | BaseMessage):
        *before, last = [given] if isinstance(given, BaseMessage) else given.to_messages()
        return Asked(str(last.text), chat_history=tuple(before))
    if not isinstance(given, Mapping):
        raise InputError(
            f"Expected a question or a dict, got {type(given).__name__}.", 'Pass a text or {"input": text}.'
        )
    names = [name for name in ("input", "question") if name in given]
    unknown = sorted(str(key) for key in given if key not in MemRecallInput.__annotations__)
    if len(names) != 1 or unknown or not isinstance(given[names[0]], str):
        raise InputError(
            f"Expected 'input' or 'question' (a text), and 'documents', 'filter' and 'chat_history' if wanted, "
            f"got {sorted(map(str, given))}.",
            'Select what is asked: itemgetter("input") | runnable.',
        )
    return Asked(
        given[names[0]],
        given.get("filter"),
        tuple(check_documents(given["documents"])) if "documents" in given else None,
        _messages(given.get("chat_history") or ()),
    )


def _messages(given: Any) -> tuple[BaseMessage, ...]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        try:
            return tuple(convert_to_messages(given))
        except (NotImplementedError, ValueError, KeyError) as error:
            raise _no_messages(str(error)) from error
    raise _no_messages(type(given).__name__)


def _no_messages(got: str) -> InputError:
    return InputError(
        f"Expected 'chat_history' to be a list of messages, got {got}.", 'Write it like [("human", "Who is that?")].'
    )
