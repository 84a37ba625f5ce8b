"""What the backbone is asked, and how its replies are read.

Whatever a question, a note or a text holds, it opens no other section of a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NOTHING = re.compile(
    r"^\W*(nothing( new| relevant)?|none|n/?a|not (found|mentioned|stated|given|available|enough)|unknown|no answer)\b"
    r"|\b(does|do|did) not (contain|mention|say|state|provide)\b|\bnot (mentioned|stated|provided|found) in\b",
    re.IGNORECASE,
)
_BEGINS_SECTION = re.compile(
    r"\W*(question|answer|(old |new )?notes?|(already )?known|facts?|relevant|text|user|human|assistant|ai|system"
    r"|instructions?)\W*[:\uff1a]",
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
    return f" {memory} {_line(question)}" if memory else f" {_line(question)}"


def gate_classify(question: str, memory: str) -> str:
    """Return the prompt after which a trained gate classifies a block."""
    return f"\n{_known(memory)}\nQuestion: {_line(question)}\nRelevant:"


def note(question: str, memory: str) -> str:
    """Return the request for a note on the block that was just read; the reply is one line."""
    known = f"\nAlready known: {_line(memory)}" if memory else ""
    return (
        "\n\nFor each question, repeat the fact from the text above that helps to answer it."
        f"\nQuestion: What is the capital of the moon?{known}\nFact: nothing new\nQuestion: {_line(question)}\nFact:"
    )


def rewrite(question: str, memory: str) -> str:
    """Return the request to rewrite the whole working memory, as the paper does; the reply is one line."""
    return (
        "\n\nRewrite the notes with what the text above adds that helps to answer the question."
        f"\nQuestion: {_line(question)}\nOld notes: {_line(memory) or 'none'}\nNew notes:"
    )


def answer(question: str, memory: str, texts: list[str]) -> str:
    """Return the request for the final answer from the opened chunks' text and the notes."""
    parts = ["Answer the question in one short sentence, using this text:", *(passage(_line(text)) for text in texts)]
    if memory:
        parts.append(f"Notes: {_line(memory)}")
    return "\n\n".join([*parts, f"Question: {_line(question)}"])


def answer_question(question: str) -> str:
    """Return a request for a few words, to follow a text or a block in its place; the reply is one line.

    The example question sets the form of the reply, so that a model that was never trained on it can be scored.
    """
    return (
        "Answer each question with a few words from the text above."
        f"\nQuestion: What language is the text written in?\nAnswer: English\nQuestion: {_line(question)}\nAnswer:"
    )


def passage(text: str) -> str:
    """Return a document's text as a reader reads it: what looks like a section or a turn of a chat begins no line."""
    kept = ""
    for line in text.splitlines(keepends=True):
        if _BEGINS_SECTION.match(line):
            line = f"{' ' if kept.strip() else '> '}{line.lstrip()}"
            kept = kept.rstrip()
        kept += line
    return kept


def trained_answer(question: str, memory: str = "") -> str:
    """Return the prompt after which a trained reader answers, from the blocks before it and its notes; one line."""
    return f"\n{_known(memory)}\nQuestion: {_line(question)}\nAnswer:"


def together(texts: Sequence[str]) -> str:
    """Return texts in one prompt, as a trained reader reads them before its question."""
    return "\n\n".join(texts)


def trained_note(question: str, memory: str = "") -> str:
    """Return the prompt after which a trained reader notes what the blocks before it add; one line."""
    return f"\n{_known(memory)}\nQuestion: {_line(question)}\nNote:"


def _known(memory: str) -> str:
    return f"\nKnown: {_line(memory)}" if memory else ""


def _line(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.split())


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
