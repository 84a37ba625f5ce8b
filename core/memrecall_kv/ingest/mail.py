"""A saved mail -> its headers, its text and the text files attached to it."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import MIMEPart
from typing import Any

from memrecall_kv.ingest.encodings import decode
from memrecall_kv.ingest.html import without_markup
from memrecall_kv.ingest.text import FileBytes, FileText, lines_of

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def eml(file: FileBytes) -> FileText:
    """Return who wrote what to whom and when; attachments that are no text are named only."""
    mail = message_from_bytes(file.data, policy=policy.default)
    heads = [f"{name}: {' '.join(str(mail[name]).split())}" for name in _HEADERS if mail[name]]
    body = mail.get_body(("plain", "html"))
    parts = ["\n".join(heads), _content(body, file) if body is not None else ""]
    unread = 0
    for part in mail.walk():
        name = part.get_filename()
        if part is body or part.is_multipart() or not name:
            continue
        is_text = part.get_content_maintype() == "text"
        unread += not is_text
        parts.append(f"Attachment: {name}" + (f"\n{_content(part, file)}" if is_text else ""))
    text = "\n\n".join(part.replace("\r\n", "\n").strip() for part in parts if part.strip())
    note = f"{unread} attachments not read" if unread else ""
    read = lines_of(text, note, " ".join(str(mail["Subject"] or "").split()))
    return FileText(read.text, read.title, note=note)


def _content(part: MIMEPart[Any, Any], file: FileBytes) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        text = data.decode(part.get_content_charset() or "utf-8")
    except (LookupError, UnicodeDecodeError):
        text = decode(data, file.path, file.encoding)[0]
    return without_markup(text, file.path).text if part.get_content_subtype() == "html" else text
