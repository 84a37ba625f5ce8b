"""PDF -> the text of its pages, as a reader goes through them.

Deviations from what pypdf gives: lines of columns that a page draws across are read column by column, headers
and footers are kept once, page numbers are left out, and words broken at line ends are joined. All of it rests on
where lines begin and how long they look, so that a page it does not fit stays as it is drawn.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from memrecall_kv.errors import InputError, MissingDependencyError
from memrecall_kv.ingest.places import Section
from memrecall_kv.ingest.text import FileBytes, FileText, optional

_BROKEN = re.compile(r"(\w+)-\n(\w+)")
_PAGE_NUMBER = re.compile(r"\W*(?:\w+\W+)?\d{1,4}(?:\W+(?:\w+\W+)?\d{1,4})?\W*")
"""Such as `3`, `- 3 -`, `Page 3`, `3 / 9` and `Page 3 of 9`."""
_EDGE = 2
"""Lines at the top and at the bottom of a page that may be a header or a footer."""
_REPEATED_SHARE = 0.4
"""Share of the pages on which a line is a header or footer; left and right pages may have different ones."""
_COLUMN_SHARE = 0.2
"""Share of a page's lines that begin where a column does."""
_PROSE_SHARE = 0.55
"""Share of a column's width that its lines take; cells of a table take less."""
_GAP = 1.8
"""From line to line in units of the letters' height; more is the end of a paragraph."""
_SNAP = 6.0
"""Points by which the lines of a column may begin apart."""
_LETTER = 0.5
"""Width of a letter in units of its height, on average."""


@dataclass(slots=True)
class _Line:
    """A line as drawn, in points from the lower left corner.

    Attributes:
        y: Where its letters stand.
        height: Of its letters.
        pieces: Where each piece of it begins, and its text.
    """

    y: float
    height: float
    pieces: list[tuple[float, str]]

    @property
    def text(self) -> str:
        """Return the line's text without space around it."""
        return "".join(text for _, text in self.pieces).strip()

    @property
    def start(self) -> float:
        """Return where its first piece begins."""
        return self.pieces[0][0]

    @property
    def end(self) -> float:
        """Return about where its last piece ends."""
        start, text = self.pieces[-1]
        return start + _LETTER * self.height * len(text.strip())


def pdf(file: FileBytes) -> FileText:
    """Return a document's text; its places are pages.

    Raises:
        InputError: If it needs a password or has no text.
        MissingDependencyError: If pypdf, or for an encrypted document `cryptography`, is not installed.
    """
    pypdf = optional("pypdf", file.path)
    reader = pypdf.PdfReader(io.BytesIO(file.data))
    try:
        locked = reader.is_encrypted and not reader.decrypt("")
    except pypdf.errors.DependencyError as error:
        raise MissingDependencyError(
            f"{file.path}: reading this encrypted PDF needs cryptography, which is not installed.",
            'Run: pip install "memrecall-kv[documents]"',
        ) from error
    if locked:
        raise InputError(f"{file.path}: expected a readable PDF, got one with a password.", "Save it without one.")
    sheets = [(float(page.mediabox.width), _lines(page)) for page in reader.pages]
    kept = _without_margins([lines for _, lines in sheets])
    pages = [_text(_by_column(lines, width)) for lines, (width, _) in zip(kept, sheets, strict=True)]
    pages = [_joined(page, " ".join(pages)).strip() for page in pages]
    if not any(pages):
        raise InputError(
            f"{file.path}: expected a PDF with text, got pages without.", "Run text recognition on it first."
        )
    items = [f"{page}\n\n" if page else "" for page in pages]
    title = str((reader.metadata or {}).get("/Title") or "").strip()
    return FileText("".join(items), title, [Section([len(item) for item in items], unit="page")])


def _lines(page: Any) -> list[_Line]:
    lines: list[_Line] = []
    is_open = False

    def take(text: str, outer: Sequence[float], inner: Sequence[float], font: object, size: float) -> None:
        nonlocal is_open
        # characters that the PDF's fonts do not map to Unicode come out as halves of surrogate pairs
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        x = inner[4] * outer[0] + inner[5] * outer[2] + outer[4]
        y = inner[4] * outer[1] + inner[5] * outer[3] + outer[5]
        for part in text.splitlines(keepends=True):
            words = part.rstrip("\r\n")
            if words.strip() and not is_open:
                lines.append(_Line(y, abs(float(size or 0) * inner[0] * outer[0]), []))
                is_open = True
            if is_open and words:
                lines[-1].pieces.append((x, words))
            is_open = is_open and part == words

    page.extract_text(visitor_text=take)
    return lines


def _without_margins(pages: Sequence[list[_Line]]) -> list[list[_Line]]:
    """Return the pages without page numbers, and with each header and footer where it stands first."""
    edges = [_edges(lines) for lines in pages]
    counts = Counter(key for page in edges for key in {_key(line) for line in page})
    repeated = {key for key, count in counts.items() if count >= max(3, _REPEATED_SHARE * len(pages))}
    seen: set[str] = set()
    kept = []
    for lines, edge in zip(pages, edges, strict=True):
        dropped = []
        for line in edge:
            number = _PAGE_NUMBER.fullmatch(line.text) and (_key(line) in repeated or line.text.isdigit())
            if number or _key(line) in repeated & seen:
                dropped.append(line)
        seen.update(_key(line) for line in edge)
        kept.append([line for line in lines if not any(line is other for other in dropped)])
    return kept


def _edges(lines: Sequence[_Line]) -> list[_Line]:
    """Return the lines at the top and at the bottom of a page, if it has others."""
    by_height = sorted(lines, key=lambda line: -line.y)
    return [*by_height[:_EDGE], *by_height[-_EDGE:]] if len(lines) > 2 * _EDGE else []


def _key(line: _Line) -> str:
    """Return what is equal for a header on every page."""
    return re.sub(r"\d+", "#", " ".join(line.text.split()))


def _by_column(lines: list[_Line], width: float) -> list[_Line]:
    """Return a page's lines column by column, between lines that run across; as drawn if it has no columns."""
    starts = _column_starts(lines, width)
    if len(starts) < 2:
        return lines
    ordered: list[_Line] = []
    columns: list[list[_Line]] = [[] for _ in starts]
    for line in (part for whole in lines for part in _split(whole, starts)):
        place = _column(line, starts)
        if _crosses(line, starts):
            ordered += [*(each for column in columns for each in column), line]
            columns = [[] for _ in starts]
        else:
            columns[place].append(line)
    return ordered + [each for column in columns for each in column]


def _column_starts(lines: Sequence[_Line], width: float) -> list[float]:
    """Return where the columns of prose begin; fewer than two if there are none."""
    counts = Counter(place for line in lines for place in {round(x / _SNAP) for x, _ in line.pieces})
    least = max(4, _COLUMN_SHARE * len(lines))
    starts: list[float] = []
    for start in sorted(_SNAP * place for place, count in counts.items() if count >= least):
        if not starts or start - starts[-1] > 0.2 * width:
            starts.append(start)
    parts = [part for line in lines for part in _split(line, starts)]
    for place, (start, after) in enumerate(pairwise(starts)):
        inside = [part.end - start for part in parts if _column(part, starts) == place and not _crosses(part, starts)]
        if not inside or median(inside) < _PROSE_SHARE * (after - start):
            return []
    return starts


def _split(line: _Line, starts: Sequence[float]) -> Iterator[_Line]:
    """Yield the parts of a line that begin where columns do."""
    part = _Line(line.y, line.height, [])
    for x, text in line.pieces:
        if part.pieces and any(abs(x - start) <= _SNAP for start in starts):
            yield part
            part = _Line(line.y, line.height, [])
        part.pieces.append((x, text))
    yield part


def _column(line: _Line, starts: Sequence[float]) -> int:
    return max((place for place, start in enumerate(starts) if line.start >= start - _SNAP), default=0)


def _crosses(line: _Line, starts: Sequence[float]) -> bool:
    """Return whether a line of one column runs well into the next."""
    following = starts[_column(line, starts) + 1 :]
    return bool(following) and line.end > following[0] + 5 * _SNAP


def _text(lines: Sequence[_Line]) -> str:
    """Return lines as text, with an empty line where the page leaves room for one."""
    ends = ["\n\n" if before.y - line.y > _GAP * before.height > 0 else "\n" for before, line in pairwise(lines)]
    return "".join(f"{line.text}{end}" for line, end in zip(lines, [*ends, ""], strict=True)) if lines else ""


def _joined(text: str, everything: str) -> str:
    """Return a text whose words go on across line ends; a hyphen that the word also has elsewhere stays."""

    def join(match: re.Match[str]) -> str:
        before, after = match.groups()
        if not after[0].islower() or not before[-1].isalpha():
            return match[0]
        hyphen = "-" if f"{before}-{after}" in everything else ""
        return f"{before}{hyphen}{after}"

    return _BROKEN.sub(join, text.replace("\u00ad\n", "").replace("\u00ad", ""))
