"""EPUB books -> the text of their chapters in reading order."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from memrecall_kv.ingest.archive import open_zip
from memrecall_kv.ingest.encodings import decode
from memrecall_kv.ingest.html import without_markup
from memrecall_kv.ingest.places import Section
from memrecall_kv.ingest.text import FileBytes, FileText, optional

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_OPF = "{http://www.idpf.org/2007/opf}"


def epub(file: FileBytes) -> FileText:
    """Return a book's text; its places are chapters, named by their first heading."""
    xml = optional("defusedxml.ElementTree", file.path)
    with open_zip(file) as container:
        rootfile = xml.fromstring(container.read("META-INF/container.xml")).find(f".//{_CONTAINER}rootfile")
        package = xml.fromstring(container.read(rootfile.get("full-path")))
        texts: list[str] = []
        sections: list[Section] = []
        for chapter in _chapters(container, package, posixpath.dirname(rootfile.get("full-path"))):
            markup, _ = decode(container.read(chapter), file.path, None)
            read = without_markup(markup, file.path)
            if read.text:
                heading = next(
                    (each.name.removeprefix("section ") for each in read.sections if each.name != "beginning"),
                    read.title,
                )
                name = f"chapter {len(texts) + 1}{': ' * bool(heading)}{heading}"
                texts.append(f"{read.text}\n\n")
                sections.append(Section([len(texts[-1])], name=name))
    title = package.findtext(".//{http://purl.org/dc/elements/1.1/}title") or ""
    return FileText("".join(texts), title.strip(), sections)


def _chapters(container: zipfile.ZipFile, package: Any, folder: str) -> Iterator[str]:
    """Yield the names of a book's text files in reading order, without its table of contents."""
    listed = {item.get("id"): item for item in package.iter(f"{_OPF}item")}
    inside = set(container.namelist())
    for reference in package.iter(f"{_OPF}itemref"):
        item = listed.get(reference.get("idref"))
        if item is None or "nav" in (item.get("properties") or "").split():
            continue
        name = posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "")))
        if name in inside:
            yield name
