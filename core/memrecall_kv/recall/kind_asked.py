"""Whether a reply can be of the kind that a question asks for; in doubt it can."""

from __future__ import annotations

import re
import unicodedata

from memrecall_kv.recall.grounding import PERCENT, content_words

_SHARES = re.compile(rf"[-+]?\d[\d.,]*(?:\s*(?:-|to|bis|a|\u00e0)\s*\d[\d.,]*)?\s*{PERCENT}", re.IGNORECASE)
_ASKS_FOR_SHARE = re.compile(
    rf"{PERCENT}|percentage|proportion|fraction|share|ratio|rate|chance|prob|anteil|quote|porcentaje|pourcentage|part\b",
    re.IGNORECASE,
)
_ASKS_FOR_ANOTHER = re.compile(
    r"^\W*(?:and |und |y |et )?(?:who|whom|whose|when|where|how (?:many|old|tall|far|often)|in (?:which|what) year"
    r"|wer|wem|wen|wann|wo|wie ?viele|wie (?:alt|oft|weit)|qui\u00e9n|cu\u00e1ndo|d\u00f3nde|cu\u00e1nt[oa]s"
    r"|qui|quand|o\u00f9|combien de|chi|quando|dove|quant[ie]|hoeveel)\b"
    r"|\b(?:how many|wie ?viele|cu\u00e1nt[oa]s|combien de|quant[ie]|hoeveel)\b",
    re.IGNORECASE,
)


def is_of_kind_asked(question: str, reply: str) -> bool:
    """Return whether a reply can answer a question of its kind: a bare percentage is no count, date, person or place.

    Args:
        question: What was asked, in English, German, Spanish, French, Italian or Dutch; of others nothing is said.
        reply: What was answered.
    """
    asked, said = (unicodedata.normalize("NFKC", text) for text in (question, reply))
    if not _SHARES.search(said) or _ASKS_FOR_SHARE.search(asked) or not _ASKS_FOR_ANOTHER.search(asked):
        return True
    return bool(content_words(_SHARES.sub(" ", said)) - content_words(asked))
