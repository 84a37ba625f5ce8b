"""What OpenAI's clients send: messages, of which the last is the question, and the name of a bank as the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field, StrictBool

from memrecall_kv.errors import InputError
from memrecall_kv.recall.follow_up import Turn
from memrecall_kv.serve.asking import TopK
from memrecall_kv.serve.keys import Caller
from memrecall_kv.serve.question import Question
from memrecall_kv.serve.service import Service
from memrecall_kv.serve.where import JsonFilter, to_filter


class Part(BaseModel):
    """A text among the parts of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Message(BaseModel):
    """Something that was said.

    Attributes:
        role: Who said it; what neither a user nor an assistant said is not read.
        content: What; only text can be asked.
    """

    role: Literal["user", "assistant", "system", "developer", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


Messages: TypeAlias = Annotated[list[Message], Field(min_length=1, max_length=1000)]


class Conversation(BaseModel):
    """What both of OpenAI's forms share. What is not listed here or there is accepted and makes no difference.

    Attributes:
        model: The name of a bank.
        stream: Send the answer as it is written.
        tools: None: what answers here calls no tools.
        top_k: Of ours: open exactly this many blocks.
        where: Of ours: recall only chunks of documents that match.
    """

    model: str
    stream: StrictBool | None = False
    tools: Annotated[list[object], Field(max_length=0)] | None = None
    top_k: TopK | None = None
    where: JsonFilter | None = None


def question_of(asked: Conversation, messages: Sequence[Message], service: Service, caller: Caller) -> Question:
    """Return the question that a conversation ends with.

    Raises:
        InputError: If the last message is none of a user's.
        RefusedError: If there is no such bank.
    """
    bank = service.bank(asked.model, caller)
    if messages[-1].role != "user":
        raise InputError(
            f"Expected the last message to be a user's, got one of role {messages[-1].role!r}.",
            "End with the question.",
        )
    where = None if asked.where is None else to_filter(asked.where)
    turns = _turns(messages[:-1], service.memory.config.reasoner.not_found)
    return Question(bank, messages[-1].text, turns, asked.top_k, where)


def _turns(messages: Sequence[Message], not_found: str) -> list[Turn]:
    """Return what a user said, each with what was answered; to say that nothing was found is no answer."""
    turns: list[Turn] = []
    for message in messages:
        if message.role == "user":
            turns.append(Turn(message.text))
        elif message.role == "assistant" and turns and message.text != not_found:
            turns[-1] = Turn(turns[-1].question, message.text)
    return turns
