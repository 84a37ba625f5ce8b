"""What the backbone is asked, and how its replies are read."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NOTHING = re.compile(
    r"^\W*(nothing( new| relevant)?|none|n/?a|not (found|mentioned|stated|given|available|enough)|unknown|no answer)\b"
    r"|\b(does|do|did) not (contain|mention|say|state|provide)\b|\bnot (mentioned|stated|provided|found) in\b",
    re.IGNORECASE,
)


NOT_FOUND = "not found"
"""What a trained reader answers when neither blocks nor notes hold the answer."""
NOTHING_NEW = "nothing new"
"""What a trained reader notes when a block adds nothing."""


def gate_lead() -> str:
    """Return what stands between a block and the text whose likelihood the gate measures."""
    return "\n\n"


def gate_question(question: str, memory: str) -> str:
    """Return the text whose likelihood tells whether a block matters: what is known, then what is asked."""
    return f" {memory} {question}" if memory else f" {question}"


def gate_classify(question: str, memory: str) -> str:
    """Return the prompt after which a trained gate classifies a block."""
    return f"\n{_known(memory)}\nQuestion: {question}\nRelevant:"


def note(question: str, memory: str) -> str:
    """Return the request for a note on the block that was just read; the reply is one line."""
    known = f"\nAlready known: {' '.join(memory.split())}" if memory else ""
    return (
        "\n\nFor each question, repeat the fact from the text above that helps to answer it."
        f"\nQuestion: What is the capital of the moon?{known}\nFact: nothing new\nQuestion: {question}\nFact:"
    )


def rewrite(question: str, memory: str) -> str:
    """Return the request to rewrite the whole working memory, as the paper does; the reply is one line."""
    return (
        "\n\nRewrite the notes with what the text above adds that helps to answer the question."
        f"\nQuestion: {question}\nOld notes: {' '.join(memory.split()) or 'none'}\nNew notes:"
    )


def answer(question: str, memory: str, texts: list[str]) -> str:
    """Return the request for the final answer from the opened chunks' text and the notes."""
    parts = ["Answer the question in one short sentence, using this text:", *(" ".join(text.split()) for text in texts)]
    if memory:
        parts.append(f"Notes: {' '.join(memory.split())}")
    return "\n\n".join([*parts, f"Question: {question}"])


def answer_question(question: str) -> str:
    """Return a request for a few words, to follow a text or a block in its place; the reply is one line.

    The example question sets the form of the reply, so that a model that was never trained on it can be scored.
    """
    return (
        "Answer each question with a few words from the text above."
        f"\nQuestion: What language is the text written in?\nAnswer: English\nQuestion: {question}\nAnswer:"
    )


def trained_answer(question: str, memory: str = "") -> str:
    """Return the prompt after which a trained reader answers, from the blocks before it and its notes; one line."""
    return f"\n{_known(memory)}\nQuestion: {question}\nAnswer:"


def trained_note(question: str, memory: str = "") -> str:
    """Return the prompt after which a trained reader notes what the blocks before it add; one line."""
    return f"\n{_known(memory)}\nQuestion: {question}\nNote:"


def _known(memory: str) -> str:
    return f"\nKnown: {' '.join(memory.split())}" if memory else ""


def reconstruct_lead() -> str:
    """Return what stands between a block and the beginning of a passage of it that is to be continued."""
    return "\n\nText:"


def is_nothing(reply: str) -> bool:
    """Return whether a reply says that the text holds nothing of use."""
    return not reply.strip() or bool(_NOTHING.search(reply))


def follow_up(turns: Sequence[tuple[str, str]], question: str) -> str:
    """Return the request to write a follow-up question so that it stands alone; the reply is one line.

    Args:
        turns: Questions and answers before it; an empty answer is left out.
        question: The follow-up question.
    """
    said = "".join(f"Question: {asked}\n" + f"Answer: {told}\n" * bool(told) for asked, told in turns)
    return (
        "Rewrite each follow-up so that it can be understood alone."
        "\n\nQuestion: Who painted the ceiling of the chapel?\nAnswer: Paolo Ricci\nFollow-up: How old was he?"
        "\nRewritten: How old was Paolo Ricci?"
        "\n\nQuestion: When does the library open on Monday?\nAnswer: At nine.\nFollow-up: And on Sunday?"
        "\nRewritten: When does the library open on Sunday?"
        "\n\nQuestion: Which engine does the ferry have?\nAnswer: A diesel engine from Kiel."
        "\nFollow-up: Who repairs it?"
        f"\nRewritten: Who repairs the engine of the ferry?\n\n{said}Follow-up: {question}\nRewritten:"
    )
