"""Candidates for scripts without spaces and for words that change their form: what is shared are runs of letters.

Source: character n-grams, McNamee and Mayfield, Character N-Gram Tokenization for European Language Text
Retrieval, 2004. Deviations: three letters inside a word instead of four or five; two where words are not spaced.
"""

from __future__ import annotations

import re
import unicodedata

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.recall.candidates import SharedWords

_UNSPACED = "\u0e00-\u0fff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai to Tibetan, Khmer, Japanese, Chinese."""
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")


def pieces(text: str) -> list[str]:
    """Return the runs of letters in a text; case, width and accents make no difference.

    Of each word those of three, with where it begins and ends; of unspaced scripts those of two.
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = unicodedata.normalize("NFC", "".join(c for c in decomposed if not unicodedata.combining(c)))
    found: list[str] = []
    for run in _RUN.findall(plain):
        unspaced = re.match(f"[{_UNSPACED}]", run) is not None
        padded, size = (run, 2) if unspaced else (f"^{run}$", 3)
        found += [padded[start : start + size] for start in range(max(1, len(padded) - size + 1))]
    return found


class SharedCharacters(SharedWords):
    """Proposes the chunks that share most runs of letters with question and notes; of equals the first ones.

    Args:
        bank: Whose chunks.
    """

    def __init__(self, bank: MemoryBank) -> None:
        super().__init__(bank, pieces)
