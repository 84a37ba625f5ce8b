"""Jupyter notebooks -> the text of their cells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from memrecall_kv.ingest.encodings import decode
from memrecall_kv.ingest.places import Section
from memrecall_kv.ingest.text import FileBytes, FileText

_TITLE = re.compile(r"^#[ \t]+(\S.*)$", re.MULTILINE)


def ipynb(file: FileBytes) -> FileText:
    """Return what stands in the cells and in their outputs as text; its places are cells."""
    text, note = decode(file.data, file.path, file.encoding)
    notebook = json.loads(text)
    sheets = notebook.get("worksheets") or [notebook]  # worksheets: as notebooks were until 2015
    cells = ["\n".join(_cell(cell)).strip() for sheet in sheets for cell in sheet["cells"]]
    items = [f"{cell}\n\n" if cell else "" for cell in cells]
    heading = _TITLE.search("".join(items))
    title = heading.group(1).strip() if heading else ""
    return FileText("".join(items), title, [Section([len(item) for item in items], unit="cell")], note)


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    yield _joined(cell.get("source", cell.get("input", "")))
    for output in cell.get("outputs", ()):
        data = output.get("data") or {}
        yield _joined(output.get("text", data.get("text/plain", data.get("text/markdown", ""))))


def _joined(lines: Any) -> str:
    return lines if isinstance(lines, str) else "".join(str(line) for line in lines)
