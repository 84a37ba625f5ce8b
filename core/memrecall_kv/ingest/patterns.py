"""Patterns of paths, as `--include` and `--exclude` take them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PIECES = re.compile(r"\*\*+/|\*\*+|\*|\?|\[!?[^\]/]+\]|.", re.DOTALL)


class Patterns:
    """Says whether a path matches one of some patterns.

    A pattern with a slash is compared with the whole path, one without with every name in it; what lies in a folder
    that matches, matches. `*` and `?` stop at slashes, `**` does not; case does not count.

    Args:
        patterns: For example `*.pdf`, `drafts`, `drafts/` or `reports/**/2024-*.md`.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        given = [patterns] if isinstance(patterns, str) else patterns
        self._patterns = [re.compile(_regex(pattern), re.IGNORECASE) for pattern in given]

    def __bool__(self) -> bool:
        """Return whether there are patterns."""
        return bool(self._patterns)

    def match(self, path: str) -> bool:
        """Return whether a path with forward slashes matches."""
        return any(pattern.fullmatch(path) for pattern in self._patterns)


def _regex(pattern: str) -> str:
    whole = pattern.replace("\\", "/").removeprefix("./").rstrip("/")
    anchored = "/" in whole
    pieces = (_piece(found[0]) for found in _PIECES.finditer(whole.lstrip("/")))
    return f"{'' if anchored else '(?:.*/)?'}{''.join(pieces)}(?:/.*)?"


def _piece(piece: str) -> str:
    if piece.startswith("[") and len(piece) > 2:
        return f"[^/{re.escape(piece[2:-1])}]" if piece[1] == "!" else f"[{re.escape(piece[1:-1])}]".replace(r"\-", "-")
    if piece.startswith("**"):
        return "(?:.*/)?" if piece.endswith("/") else ".*"
    return {"*": "[^/]*", "?": "[^/]"}.get(piece) or re.escape(piece)
