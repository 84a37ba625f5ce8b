"""What the backbone is asked, and how its replies are read."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+", re.UNICODE)
_STOPWORDS = frozenset(
    """a an and are as at be by did do does for from had has have he her his i in is it its not of on or our she so
    that the their them then there these they this to was we were what when where which who will with you""".split()
)
_NOTHING = re.compile(
    r"^\W*(nothing( new| relevant)?|none|n/?a|not (found|mentioned|stated|given|available|enough)|unknown|no answer)\b"
    r"|\b(does|do|did) not (contain|mention|say|state|provide)\b|\bnot (mentioned|stated|provided|found) in\b",
    re.IGNORECASE,
)


def gate_lead() -> str:
    """Return what stands between a block and the text whose likelihood the gate measures."""
    return "\n\n"


def gate_question(question: str, memory: str) -> str:
    """Return the text whose likelihood tells whether a block matters: what is known, then what is asked."""
    return f" {memory} {question}" if memory else f" {question}"


def gate_classify(question: str, memory: str) -> str:
    """Return the prompt after which a trained gate classifies a block."""
    known = f"\nKnown: {memory}" if memory else ""
    return f"\n\nQuestion: {question}{known}\nRelevant:"


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
    """Return the request for the final answer from the opened chunks' text and the notes; one line.

    The example question sets the form of the reply: a base model without chat training needs it.
    """
    parts = [" ".join(text.split()) for text in texts]
    if memory:
        parts.append(f"Notes: {' '.join(memory.split())}")
    return "\n\n".join([*parts, answer_question(question)])


def answer_question(question: str) -> str:
    """Return the part of the final request that follows the texts, or a block in their place."""
    return (
        "Answer each question with a few words from the text above."
        f"\nQuestion: What language is the text written in?\nAnswer: English\nQuestion: {question}\nAnswer:"
    )


def is_nothing(reply: str) -> bool:
    """Return whether a reply says that the text holds nothing of use."""
    return not reply.strip() or bool(_NOTHING.search(reply))


def content_words(text: str) -> set[str]:
    """Return the words that carry meaning, lower case."""
    return {word for word in _WORD.findall(text.lower()) if word not in _STOPWORDS}


def is_grounded(reply: str, texts: list[str]) -> bool:
    """Return whether every content word of a reply occurs in the texts."""
    words = content_words(reply)
    return bool(words) and words <= content_words(" ".join(texts))
