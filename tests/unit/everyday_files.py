"""A folder of files as people have them, made in process; `python tests/unit/everyday_files.py` renews docs/files.md.

All texts were written for this file and are under the project's licence.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from memrecall_kv.ingest.files import read_files
from memrecall_kv.ingest.outcome import FileOutcome
from memrecall_kv.ingest.places import place_of

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
BEGIN, END = "<!-- outcomes: begin -->\n", "<!-- outcomes: end -->\n"

PROSE = (
    "The keeper of the lighthouse wrote a letter every evening.\nNora Quist carried it to the ferry at nine.\n"
    "The fare was twelve crowns, and the dog sailed free.\n"
)
FRENCH = "Le café du théâtre est fermé jusqu’à l’été.\nNora paie douze euros à l’équipage.\n"
JAPANESE = "灯台守は冬の間、島に一人で残った。\n食料は三週間分しかなかった。\n"


@dataclass(frozen=True)
class Everyday:
    """A file of the folder.

    Attributes:
        name: Its path.
        data: Its bytes.
        wanted: What must be found in what is read of it; empty if it is not read.
        place: Where that stands.
        outcome: `read`, or how the reason starts.
        note: What the note starts with.
    """

    name: str
    data: bytes
    wanted: str = ""
    place: str = ""
    outcome: str = "read"
    note: str = ""


def everyday_files() -> list[Everyday]:
    """Return the files."""
    return [*_texts(), *_code(), *_tables(), *_pages(), *_office(), *_pdfs(), *_encodings(), *_packed(), *_unread()]


def write(folder: Path) -> list[Everyday]:
    """Write the files into a folder and return them."""
    files = everyday_files()
    for file in files:
        path = os.path.join(os.fsencode(folder), os.fsencode(file.name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(file.data)
    return files


def _texts() -> list[Everyday]:
    names = ["README", "LICENSE", "notes.txt", "UPPER.TXT", "manual.rst", "todo.org", "notes/deep/er.text"]
    marked = f"# Lighthouse\n\n{PROSE}"
    return [
        *(Everyday(name, PROSE.encode(), "Nora Quist carried it", "line 2") for name in names),
        Everyday("CHANGELOG.md", marked.encode(), "Nora Quist carried it", "line 4"),
        Everyday("guide.markdown", marked.encode(), "Nora Quist carried it", "line 4"),
        Everyday("page.mdx", f"import X from './x'\n\n{marked}<X/>\n".encode(), "Nora Quist carried it", "line 6"),
        Everyday("paper.tex", b"\\section{Ferry}\nNora Quist sails.\n", "Nora Quist sails", "line 2"),
        Everyday("film.srt", b"1\n00:00:01,000 --> 00:00:02,000\nNora waves.\n", "Nora waves", "line 3"),
        Everyday("film.vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\nNora waves.\n", "Nora waves", "line 4"),
        Everyday("meeting.ics", b"BEGIN:VEVENT\r\nSUMMARY:Ferry at nine\r\nEND:VEVENT\r\n", "Ferry at nine", "line 2"),
        Everyday("nora.vcf", b"BEGIN:VCARD\r\nFN:Nora Quist\r\nEND:VCARD\r\n", "Nora Quist", "line 2"),
        Everyday("server.log", b"09:00 start\n09:01 ferry ERROR 17\n09:02 stop\n", "ferry ERROR 17", "line 2"),
        Everyday("changes.diff", b"--- a\n+++ b\n-old fare\n+new fare\n", "+new fare", "line 4"),
    ]


def _code() -> list[Everyday]:
    comment = {
        "main.py": "#", "run.sh": "#", "Makefile": "#", "Dockerfile": "#", "setup.toml": "#", "values.yaml": "#",
        "app.ini": ";", "query.sql": "--", "app.js": "//", "types.ts": "//", "Main.java": "//", "lib.rs": "//",
        "tool.c": "//", "main.go": "//",
    }  # fmt: skip
    files = [
        Everyday(name, f"first\n{sign} The fare is twelve crowns.\nlast\n".encode(), "twelve crowns", "line 2")
        for name, sign in comment.items()
    ]
    files.append(Everyday("style.css", b"p { color: sea-green }\n", "sea-green", "line 1"))
    latin = "# -*- coding: iso-8859-1 -*-\nname = 'Zoë'\n".encode("latin-1")
    return [*files, Everyday("old.py", latin, "Zoë", "line 2")]


def _tables() -> list[Everyday]:
    people = 'name,note\nZoë,"two\nlines"\nNora,captain\n'
    return [
        Everyday("people.csv", people.encode(), "Nora,captain", "row 3"),
        Everyday("prices.tsv", b"what\tprice\nferry\t12\nrope\t7\n", "rope\t7", "row 3"),
        Everyday(
            "german.csv", "Name;Straße\nZoë;Hafengasse\n".encode("cp1252"), "Straße", "row 1", note="encoding guessed"
        ),
        Everyday("config.json", json.dumps({"harbour": {"keeper": "Zoë"}}, indent=1).encode(), "Zoë", "line 3"),
        Everyday("events.jsonl", b'{"at": 9}\n{"who": "Nora"}\n', "Nora", "line 2"),
        Everyday("events.ndjson", b'{"at": 9}\n{"who": "Nora"}\n', "Nora", "line 2"),
        Everyday("feed.xml", b"<?xml version='1.0'?>\n<item>Ferry at nine</item>\n", "Ferry at nine", "line 2"),
        Everyday("budget.xlsx", xlsx(), "Rope | 12.5 | 2024-05-01", "sheet Budget, row 5"),
    ]


def _pages() -> list[Everyday]:
    body = "<h1>Harbour</h1><p>Open.</p><h2>Fares</h2><p>The <b>fare</b> is twelve crowns.</p>"
    page = f"<html><head><title>Harbour</title></head><body>{body}</body></html>"
    lying = f'<html><head><meta charset="utf-8"></head><body><p>{FRENCH}</p></body></html>'
    strict = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
    )
    return [
        Everyday("index.html", page.encode(), "fare is twelve crowns", "section Fares"),
        Everyday("lying.htm", lying.encode("cp1252"), "théâtre est fermé", note="it says utf-8"),
        Everyday("strict.xhtml", strict.encode(), "fare is twelve crowns", "section Fares"),
        Everyday("mail.eml", mail(), "The ferry für Zoë leaves at nine"),
        Everyday("answer.eml", mail(attached=True), "Seat 14B", note="1 attachment"),
        Everyday("book.epub", epub(), "The lamp went out", "chapter 2: The lamp"),
    ]


def _office() -> list[Everyday]:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Analysis\n", "of fares"]},
        {"cell_type": "code", "metadata": {}, "source": "fare = 12", "outputs": [], "execution_count": 1},
        {"cell_type": "code", "metadata": {}, "source": ["fare * 2"], "execution_count": 2,
         "outputs": [{"output_type": "execute_result", "data": {"text/plain": ["24 crowns"]}}]},
    ]  # fmt: skip
    notebook = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    letter = rb"{\rtf1\ansi\ansicpg1252{\info{\title Letter}}\f0 Gr\'fc\'dfe from {\b Zo\'eb}\par End\par}"
    return [
        Everyday("report.docx", docx(), "Oslo | 210", "section Limits"),
        Everyday("slides.pptx", pptx(), "The strike of the ferry", "slide 2"),
        Everyday("analysis.ipynb", notebook.encode(), "24 crowns", "cell 3"),
        Everyday("letter.rtf", letter, "Grüße from Zoë"),
    ]


def _pdfs() -> list[Everyday]:
    plain = pdf([[(50, 700, "The first page.")], [(50, 700, "Nora signs the com-"), (50, 686, "munication.")]])
    rows = [f"{side} {number} goes on and on and on here" for number in range(12) for side in ("left", "right")]
    lines = [(50 if row % 2 == 0 else 310, 700 - 14 * (row // 2), text) for row, text in enumerate(rows)]
    margins = [
        [(50, 800, "Harbour Gazette"), *lines[2 * page :], (290, 30, f"Page {page + 1}")] for page in range(3)
    ]  # fmt: skip
    return [
        Everyday("paper.pdf", plain, "Nora signs the communication.", "page 2"),
        Everyday("columns.pdf", pdf(margins), "left 10 goes on and on and on here\nleft 11", "page 1"),
        Everyday("aes.pdf", pdf([[(50, 700, "Open to all readers.")]], ""), "Open to all", "page 1"),
        Everyday("scan-without-suffix", plain, "Nora signs the communication.", "page 2"),
    ]


def _encodings() -> list[Everyday]:
    return [
        Everyday(
            "windows.txt", FRENCH.encode("cp1252"), "théâtre est fermé", "line 1", note="encoding guessed: cp1252"
        ),
        Everyday("japan.txt", JAPANESE.encode("cp932"), "島に一人で残った", "line 1", note="encoding guessed: cp932"),
        Everyday("bom.txt", FRENCH.encode("utf-8-sig"), "théâtre est fermé", "line 1"),
        Everyday("utf16.txt", FRENCH.encode("utf-16"), "théâtre est fermé", "line 1"),
        Everyday("utf16-unmarked.txt", FRENCH.encode("utf-16-le"), "théâtre est", "line 1", note="read as utf-16-le"),
        Everyday("utf32-unmarked.txt", FRENCH.encode("utf-32-be"), "théâtre est", "line 1", note="read as utf-32-be"),
        Everyday("zero.txt", PROSE.replace("dog", "d\0og").encode(), "Nora Quist carried", "line 2", note="1 NUL"),
        Everyday("caf\udce9.txt", PROSE.encode(), "Nora Quist carried", "line 2", note="the file's name"),
    ]


def _packed() -> list[Everyday]:
    table = b"what,price\nferry,12\n"
    return [
        Everyday("old.log.gz", gzip.compress(PROSE.encode(), mtime=0), "Nora Quist carried", "line 2"),
        Everyday("old.txt.bz2", bz2.compress(PROSE.encode()), "Nora Quist carried", "line 2"),
        Everyday("old.csv.xz", lzma.compress(table), "ferry,12", "row 2"),
    ]


def _unread() -> list[Everyday]:
    return [
        Everyday("photo.jpg", b"\xff\xd8\xff\xe0", outcome="an image"),
        Everyday("song.mp3", b"ID3\x04", outcome="sound"),
        Everyday("film.mp4", b"\0\0\0\x18ftyp", outcome="a film"),
        Everyday("all.zip", b"PK\x05\x06" + bytes(18), outcome="an archive"),
        Everyday("all.tar.gz", gzip.compress(bytes(1024), mtime=0), outcome="an archive"),
        Everyday("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", outcome="an old Office document"),
        Everyday("core.dump", bytes(range(256)) * 4, outcome="binary data"),
        Everyday("empty.txt", b"", outcome="empty"),
        Everyday(".env", b"SECRET=1\n", outcome="hidden"),
        Everyday("locked.pdf", pdf([[(50, 700, "Secret.")]], "x"), outcome="expected a readable PDF"),
        Everyday("broken.docx", b"PK\x03\x04 and then nothing", outcome="expected a readable DOCX"),
        Everyday("broken.txt", bytes(64), outcome="expected text, got binary data"),
    ]


def docx() -> bytes:
    """Return a Word document with a title, two headings and a table."""

    def paragraph(text: str, style: str = "") -> str:
        properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' * bool(style)
        return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"

    def row(*cells: str) -> str:
        return "<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in cells) + "</w:tr>"

    body = (
        f"{paragraph('Travel', 'Heading1')}{paragraph('Dana approves trips.')}{paragraph('Limits', 'Heading2')}"
        f"<w:tbl>{row('City', 'Limit')}{row('Oslo', '210')}</w:tbl>"
    )
    main = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>' for n in (1, 2)
    )
    package = "http://schemas.openxmlformats.org/package/2006"
    return zipped(
        {
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="xml" '
            'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{office}" '
            'Target="word/document.xml"/></Relationships>',
            "word/document.xml": f'<w:document xmlns:w="{main}"><w:body>{body}</w:body></w:document>',
            "word/styles.xml": f'<w:styles xmlns:w="{main}">{styles}</w:styles>',
            "docProps/core.xml": '<c:coreProperties xmlns:c="x" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            "<dc:title>Travel policy</dc:title></c:coreProperties>",
        }
    )


def pptx() -> bytes:
    """Return two slides with notes."""
    from pptx import Presentation

    deck = Presentation()
    for title, text in (("Plan", "Sail in May"), ("Risks", "The strike of the ferry")):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
        slide.notes_slide.notes_text_frame.text = f"Said of {title}."
    return saved(deck)


def xlsx() -> bytes:
    """Return a workbook of two sheets, one with an empty row."""
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "Budget"
    for row in (["Item", "Price", "Due"], ["Ferry", 12, None], ["Paint", None, None], [], ["Rope", 12.5, None]):
        book.active.append(row)
    book.active["C5"] = datetime.datetime(2024, 5, 1)
    book.create_sheet("Staff")["B3"] = "Nora Quist"
    return saved(book)


def epub() -> bytes:
    """Return a book of two chapters."""
    chapter = '<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>{}</h1><p>{}</p></body></html>'
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        '<dc:title>The Lighthouse</dc:title></metadata><manifest><item id="n" href="nav.xhtml" properties="nav"/>'
        '<item id="b" href="text/2%20b.xhtml"/><item id="a" href="text/1.xhtml"/></manifest>'
        '<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
            "OEBPS/book.opf": package,
            "OEBPS/nav.xhtml": chapter.format("Contents", "Arrival, The lamp"),
            "OEBPS/text/1.xhtml": chapter.format("Arrival", "Nora &amp; the gull came."),
            "OEBPS/text/2 b.xhtml": chapter.format("The lamp", "The lamp went out."),
        }
    )


def mail(*, attached: bool = False) -> bytes:
    """Return a mail in two forms, with a text and a picture attached if wanted."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Ferry für Zoë", "nora@example.org", "zoe@example.org"
    message.set_content("The ferry für Zoë leaves at nine.\n")
    message.add_alternative("<p>The <b>ferry</b> für Zoë leaves at nine.</p>", subtype="html")
    if attached:
        message.add_attachment("Seat 14B", filename="seat.txt")
        message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="map.png")
    return bytes(message)


def pdf(pages: list[list[tuple[float, float, str]]], password: str | None = None, title: str = "") -> bytes:
    """Return a PDF with lines at places, encrypted with AES if there is a password."""
    import pypdf
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    fonts = DictionaryObject(
        {NameObject("/F1"): DictionaryObject({NameObject(key): NameObject(value) for key, value in font.items()})}
    )
    for lines in pages:
        page = writer.add_blank_page(width=595, height=842)
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        drawn = "".join(f"BT /F1 12 Tf 1 0 0 1 {x} {y} Tm ({text}) Tj ET\n" for x, y, text in lines)
        content = DecodedStreamObject()
        content.set_data(drawn.encode("latin-1"))
        page[NameObject("/Contents")] = writer._add_object(content)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, "owner", algorithm="AES-256")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def zipped(parts: dict[str, str]) -> bytes:
    """Return a zip container."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as container:
        for name, text in parts.items():
            container.writestr(name, text)
    return buffer.getvalue()


def saved(document: object) -> bytes:
    """Return what an office library saves."""
    buffer = io.BytesIO()
    document.save(buffer)  # type: ignore[attr-defined]
    return buffer.getvalue()


def table(folder: Path) -> str:
    """Return the table of outcomes of a folder that `write` filled."""
    wanted = {as_id(file.name): file.wanted for file in everyday_files()}
    rows = [_row(outcome, wanted[outcome.id]) for outcome in read_files([folder])]
    return "\n".join(["| file | outcome | where its text stands | note |", "|---|---|---|---|", *rows, ""])


def as_id(name: str) -> str:
    """Return the id of a file's document."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _row(outcome: FileOutcome, wanted: str) -> str:
    place = ""
    if outcome.document is not None:
        start = outcome.document.text.index(wanted)
        place = place_of(outcome.document.metadata, start, start + len(wanted))
    error = outcome.error.message.split(": ", 1)[1].rstrip(".") if outcome.error else ""
    how = (
        f"skipped: {outcome.skipped}" if outcome.skipped else f"not read: {re.split(r', got:|[:(]', error)[0].strip()}"
    )
    return f"| `{outcome.id}` | {'read' if outcome.is_read else how} | {place} | {outcome.note} |"


def main() -> int:
    """Renew the table of docs/files.md."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        page = PAGE.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}{table(Path(folder))}{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
