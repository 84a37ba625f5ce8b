"""Rich Text Format -> text."""

from __future__ import annotations

import re

from memrecall_kv.ingest.text import FileBytes, FileText, optional

_CODE_PAGE = re.compile(rb"\\ansicpg(\d{3,5})")
_TITLE = re.compile(r"\{\\title ([^{}\\]*)\}")


def rtf(file: FileBytes) -> FileText:
    """Return what is written in a document, its bytes in the code page it names."""
    striprtf = optional("striprtf.striprtf", file.path)
    named = _CODE_PAGE.search(file.data)
    encoding = file.encoding or (f"cp{named[1].decode()}" if named else "cp1252")
    source = file.data.decode("latin-1")
    title = _TITLE.search(source)
    text = striprtf.rtf_to_text(source, encoding=encoding, errors="replace")
    return FileText(text.strip(), title.group(1).strip() if title else "")
