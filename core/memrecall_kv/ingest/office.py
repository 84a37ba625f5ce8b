"""Word, PowerPoint and Excel documents -> text; called after `archive` has looked at their container."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from typing import Any

from memrecall_kv.errors import InputError
from memrecall_kv.ingest.archive import open_zip, refuse_entities
from memrecall_kv.ingest.html import without_markup
from memrecall_kv.ingest.places import Section
from memrecall_kv.ingest.text import FileBytes, FileText, optional

_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => h2:fresh"
_MOST_CELLS = 20_000_000
"""Cells of a workbook, empty ones between others included: a row may name its last column and nothing else."""


def docx(file: FileBytes) -> FileText:
    """Return a Word document's text, without headers, footers and comments; its places are its sections."""
    mammoth = optional("mammoth", file.path)
    _look_at(file)
    images = mammoth.images.img_element(lambda image: {})
    page = mammoth.convert_to_html(io.BytesIO(file.data), style_map=_STYLES, convert_image=images)
    read = without_markup(page.value, file.path)
    return FileText(read.text, _title(file), read.sections)


def pptx(file: FileBytes) -> FileText:
    """Return what stands on the slides and in their notes; its places are slides."""
    library = optional("pptx", file.path)
    _look_at(file)
    deck = library.Presentation(io.BytesIO(file.data))
    slides = []
    for slide in deck.slides:
        parts = [part for shape in slide.shapes for part in _shape_texts(shape)]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            parts.append(slide.notes_slide.notes_text_frame.text)
        slides.append("\n\n".join(part.replace("\v", "\n").strip() for part in parts if part.strip()))
    items = [f"{slide}\n\n" if slide else "" for slide in slides]
    return FileText("".join(items), _title(file), [Section([len(item) for item in items], unit="slide")])


def xlsx(file: FileBytes) -> FileText:
    """Return the rows of all sheets, a bar between cells; its places are sheets and rows."""
    openpyxl = optional("openpyxl", file.path)
    _look_at(file)
    book = openpyxl.load_workbook(io.BytesIO(file.data), read_only=True, data_only=True, keep_links=False)
    texts: list[str] = []
    sections: list[Section] = []
    cells = 0
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # what a sheet says of its own size may be wrong
        rows = []
        for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
            cells += len(row) + 1
            if cells > _MOST_CELLS:
                raise InputError(
                    f"{file.path}: expected at most {_MOST_CELLS:,} cells, got more.", "Save the rows in use as CSV."
                )
            line = " | ".join(_cell(value) for value in row).rstrip(" |")
            if line:
                rows.append((number, f"{line}\n"))
        if rows:
            first, line = rows[0]
            rows[0] = (first, f"{sheet.title}\n\n{line}")
            rows[-1] = (rows[-1][0], f"{rows[-1][1]}\n")
            texts += [line for _, line in rows]
            sections += _runs(rows, f"sheet {sheet.title}")
    return FileText("".join(texts), _title(file), sections)


def _look_at(file: FileBytes) -> None:
    if file.data.startswith(b"\xd0\xcf\x11\xe0"):  # what Office wraps around an encrypted document
        raise InputError(f"{file.path}: expected a readable file, got one with a password.", "Save it without one.")
    with open_zip(file) as container:
        refuse_entities(container, file.path)


def _title(file: FileBytes) -> str:
    with open_zip(file) as container:
        if "docProps/core.xml" not in container.namelist():
            return ""
        root = optional("defusedxml.ElementTree", file.path).fromstring(container.read("docProps/core.xml"))
    return (root.findtext("{http://purl.org/dc/elements/1.1/}title") or "").strip()


def _shape_texts(shape: Any) -> Iterator[str]:
    if hasattr(shape, "shapes"):  # a group
        for inner in shape.shapes:
            yield from _shape_texts(inner)
    elif shape.has_text_frame:
        yield shape.text_frame.text
    elif getattr(shape, "has_table", False):
        yield "\n".join(" | ".join(cell.text.replace("\n", " ") for cell in row.cells) for row in shape.table.rows)


def _cell(value: object) -> str:
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    return "" if value is None else " ".join(str(value).split())


def _runs(rows: Sequence[tuple[int, str]], name: str) -> Iterable[Section]:
    """Yield a section for every run of rows without an empty one between them."""
    first = rows[0][0]
    lengths: list[int] = []
    for number, line in rows:
        if number != first + len(lengths):
            yield Section(lengths, "row", name, first)
            first, lengths = number, []
        lengths.append(len(line))
    yield Section(lengths, "row", name, first)
