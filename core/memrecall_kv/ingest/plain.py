"""Files that are text already: their text as it stands, and the lines or rows of it."""

from __future__ import annotations

import re

from memrecall_kv.ingest.encodings import decode
from memrecall_kv.ingest.places import Section
from memrecall_kv.ingest.text import FileBytes, FileText, lines_of, split_lines

_HEADING = re.compile(r"^#[ \t]+(\S.*?)[ \t]*#*[ \t]*\r?$", re.MULTILINE)
_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)((?:\\u[0-9a-fA-F]{4})+)")


def plain(file: FileBytes) -> FileText:
    """Return a text as it stands, source code and logs too."""
    return lines_of(*decode(file.data, file.path, file.encoding))


def markdown(file: FileBytes) -> FileText:
    """Return a text as it stands; its first heading is its title."""
    text, note = decode(file.data, file.path, file.encoding)
    heading = _HEADING.search(text)
    return lines_of(text, note, heading.group(1) if heading else "")


def table(file: FileBytes) -> FileText:
    """Return a table as it stands; its places are rows as a spreadsheet counts them, the heading row first."""
    text, note = decode(file.data, file.path, file.encoding)
    rows, quotes = [0], 0
    for line in split_lines(text):
        rows[-1] += len(line)
        quotes += line.count('"')
        if quotes % 2 == 0:  # a line end inside quotes is part of a cell
            rows.append(0)
    if quotes % 2:  # a lone quote, as for inches: lines are all that can be told
        return lines_of(text, note)
    return FileText(text, sections=[Section(rows[:-1], unit="row")], note=note)


def json_text(file: FileBytes) -> FileText:
    """Return JSON as it stands, with the letters that are written as escapes."""
    text, note = decode(file.data, file.path, file.encoding)
    return lines_of(_ESCAPED.sub(lambda match: match[1] + _letters(match[2]), text), note)


def _letters(escapes: str) -> str:
    """Return the letters of escapes such as that of u with dots, but those that JSON cannot hold as themselves."""
    units = [int(unit, 16) for unit in escapes.split("\\u")[1:]]
    letters = b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be", errors="replace")
    return "".join(
        letter if letter >= " " and letter not in '"\\\x7f' else f"\\u{ord(letter):04x}" for letter in letters
    )
