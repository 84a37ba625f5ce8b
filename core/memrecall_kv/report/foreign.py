"""Texts of others, such as a page may show them: not too long, and without characters that hide what is there."""

from __future__ import annotations

import re

_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"},
    **{code: f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{code:04X}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"
       for code in (*range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),
}  # fmt: skip
"""Controls, what turns the direction of a line around, and what no UTF-8 can hold."""
_LINE_ENDS = re.compile(r"\r\n?")
_EMPTY_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*){2,}")


def shown(text: str, most: int) -> str:
    """Return a text for people to look at; it is still to be escaped.

    Args:
        text: Whatever somebody wrote.
        most: Characters of it that are shown.
    """
    left = len(text) - most
    kept = _EMPTY_LINES.sub("\n\n", _LINE_ENDS.sub("\n", text[:most])).translate(_VISIBLE)
    return f"{kept} … ({left:,} more characters)" if left > 0 else kept
