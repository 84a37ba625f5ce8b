"""HTML -> paragraphs without markup, and the headings they stand under."""

from __future__ import annotations

import re
from itertools import pairwise

from memrecall_kv.errors import InputError
from memrecall_kv.ingest.encodings import decode
from memrecall_kv.ingest.places import Section
from memrecall_kv.ingest.text import FileBytes, FileText, optional

_UNSEEN = ["script", "style", "noscript", "template", "head"]
_BLOCKS = (
    "address article aside blockquote caption dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main nav ol p pre section table tr ul"
).split()
_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_TAG = re.compile(r"<(/?)([a-zA-Z][\w:-]*)")
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_DEEPEST = 10_000
"""Open tags inside each other; taking them away takes time with the square of their number."""
_MARK = "\ue000"
"""Stands before a heading while the markup is taken away; a private character, so that no page means it."""


def html(file: FileBytes) -> FileText:
    """Return a page's text; its places are the sections under its headings."""
    markup, note = decode(file.data, file.path, file.encoding)
    return without_markup(markup, file.path, note)


def without_markup(markup: str, path: str, note: str = "") -> FileText:
    """Return the text of HTML, a blank line between blocks; its places are the sections under its headings."""
    bs4 = optional("bs4", path)
    if "<" not in markup:
        return FileText(markup, note=note)
    _refuse_deep(markup, path)
    # without its first line an XHTML page is HTML, which is how browsers take it as well
    soup = bs4.BeautifulSoup(re.sub(r"^\s*<\?xml[^>]*>", "", markup.replace(_MARK, "")), "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(_UNSEEN):
        tag.decompose()
    for tag in soup("br"):
        tag.replace_with("\n")
    for cell in soup(["td", "th"]):
        blocks = cell(_BLOCKS)
        if len(blocks) == 1 and blocks[0].name == "p":
            blocks[0].unwrap()  # as Word's tables have it: a row stays a line
        cell.append("\t")
    for tag in soup(_BLOCKS):
        tag.insert_before("\n\n")
        tag.append("\n\n")
    for tag in soup(_HEADINGS):
        tag.insert(0, _MARK)
    lines = (_cells(line) for line in soup.get_text().splitlines())
    marked = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return FileText(marked.replace(_MARK, ""), title, _sections(marked), note)


def _refuse_deep(markup: str, path: str) -> None:
    depth = 0
    for tag in _TAG.finditer(markup):
        if tag[2].lower() not in _VOID:
            depth = max(depth - 1, 0) if tag[1] else depth + 1
        if depth > _DEEPEST:
            raise InputError(
                f"{path}: expected at most {_DEEPEST:,} open tags inside each other, got more.", "Save it as text."
            )


def _cells(line: str) -> str:
    """Return a line with single spaces; the cells of a row keep a bar between them."""
    cells = [" ".join(cell.split()) for cell in line.split("\t")]
    return " | ".join(cells).removesuffix(" | ") if any(cells) else ""


def _sections(marked: str) -> list[Section]:
    """Return the sections of a text in which a mark stands before each heading."""
    starts = [0, *(match.start() for match in re.finditer(_MARK, marked)), len(marked)]
    parts = [marked[start:end] for start, end in pairwise(starts)]
    if len(parts) == 1:
        return []
    named = [
        (f"section {part[1:].split(chr(10), 1)[0]}" if part.startswith(_MARK) else "beginning", part) for part in parts
    ]
    return [Section([len(part.replace(_MARK, ""))], name=name) for name, part in named]
