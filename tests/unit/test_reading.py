"""How folders are walked, encodings guessed, places told, and hostile files bounded."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import pytest
from everyday_files import docx, mail, pdf, saved, xlsx, zipped
from memrecall_kv.errors import InputError, MissingDependencyError
from memrecall_kv.ingest import place_of, read_documents, read_files
from memrecall_kv.ingest.patterns import Patterns
from memrecall_kv.ingest.places import Section, to_metadata

WORDS = {
    "cp1252": "Le café du théâtre est fermé jusqu’à l’été, señor Müller.",
    "cp1250": "Přišel večer a strážce majáku zůstal sám u moře.",
    "cp1251": "Смотритель маяка остался на острове один на всю зиму.",
    "koi8_r": "Смотритель маяка остался на острове один на всю зиму.",
    "cp1253": "Ο φαροφύλακας έμεινε μόνος στο νησί όλο τον χειμώνα.",
    "cp932": "灯台守は冬の間、島に一人で残った。食料は三週間分しかなかった。",
    "euc_jp": "灯台守は冬の間、島に一人で残った。\n食料は三週間分しかなかった。船は来なかったのである。",
    "iso2022_jp": "灯台守は冬の間、島に一人で残った。",
    "gb18030": "灯塔看守人整个冬天独自留在岛上。",
    "cp949": "등대지기는 겨울 내내 섬에 혼자 남아 있었다.",
    "utf-16-le": "灯台守は冬の間、島に一人で残った。\n食料は三週間分しかなかった。\n",
    "utf-16-be": "Le gardien écrit chaque soir.\n",
    "utf-32-le": "Le gardien écrit chaque soir.\n",
}


def only(path: Path, **options: object) -> object:
    (outcome,) = read_files([path], **options)
    return outcome


def ids(root: Path, **options: object) -> list[str]:
    return [outcome.id for outcome in read_files([root], **options) if outcome.is_read]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name in ("a.txt", "b.md", "sub/c.txt", "sub/deep/d.TXT", "drafts/e.txt", ".git/config", "CVS/Root", "f[1].txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("Text.", encoding="utf-8")
    return folder


@pytest.mark.parametrize("encoding", WORDS)
@pytest.mark.parametrize("repeated", [1, 40])
def test_an_encoding_nobody_names_is_found_and_noted(tmp_path: Path, encoding: str, repeated: int) -> None:
    pytest.importorskip("charset_normalizer")
    text = f"{WORDS[encoding]}\n" * repeated
    (tmp_path / "old.txt").write_bytes(text.encode(encoding))
    outcome = only(tmp_path / "old.txt")
    assert outcome.document.text == text
    assert encoding.replace("-", "_") in outcome.note.replace("-", "_")


@pytest.mark.parametrize("declared", ["utf-8", "shift_jis", "nonsense", "utf-16"])
def test_a_page_that_lies_about_its_encoding_is_read(tmp_path: Path, declared: str) -> None:
    pytest.importorskip("charset_normalizer")
    page = f'<html><head><meta charset="{declared}"></head><body>{WORDS["cp1252"]}</body></html>'
    (tmp_path / "page.html").write_bytes(page.encode("cp1252"))
    outcome = only(tmp_path / "page.html")
    assert outcome.document.text == WORDS["cp1252"]
    assert declared in outcome.note


def test_a_page_in_utf8_that_says_latin1_is_utf8(tmp_path: Path) -> None:
    page = f'<html><head><meta charset="iso-8859-1"></head><body>{WORDS["cp1251"]}</body></html>'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert only(tmp_path / "page.html").document.text == WORDS["cp1251"]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_a_nul_in_a_text_does_not_lose_it(tmp_path: Path, encoding: str) -> None:
    data = WORDS["cp1252"].encode(encoding)
    (tmp_path / "nul.txt").write_bytes(data[:20] + b"\0" + data[20:])
    outcome = only(tmp_path / "nul.txt")
    assert outcome.document.text.replace("\ufffd", "") == WORDS["cp1252"]
    assert "NUL" in outcome.note


def test_a_few_damaged_bytes_do_not_turn_utf8_into_something_else(tmp_path: Path) -> None:
    data = (WORDS["cp1251"].rstrip(".") * 5).encode()
    (tmp_path / "cut.txt").write_bytes(data[:-1])
    outcome = only(tmp_path / "cut.txt")
    assert outcome.document.text.startswith(WORDS["cp1251"].rstrip("."))
    assert "1 damaged" in outcome.note


def test_letters_written_as_escapes_in_json_are_letters(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(r'{"a": "Gr\u00fc\u00dfe \ud83d\ude00 \u0022 \\u00fc \u000a"}', encoding="utf-8")
    assert only(tmp_path / "a.json").document.text == r'{"a": "Grüße 😀 \u0022 \\u00fc \u000a"}'


def test_what_is_skipped_says_why(root: Path) -> None:
    os.symlink(root, root / "sub" / "loop", target_is_directory=True)
    os.symlink("nowhere", root / "dangling.txt")
    os.symlink("self.txt", root / "self.txt")
    (root / "node_modules").mkdir()
    (root / "photo.PNG").write_bytes(b"\x89PNG")
    (root / "data").write_bytes(bytes(range(256)))
    (root / "blank.md").write_bytes(b"\n")
    skipped = {outcome.id: outcome.skipped for outcome in read_files([root], exclude=["drafts/"]) if outcome.skipped}
    assert skipped == {
        ".git": "version control",
        "CVS": "version control",
        "blank.md": "empty",
        "dangling.txt": "a link to nothing",
        "data": "binary data",
        "drafts": "excluded",
        "node_modules": "made by a tool",
        "photo.PNG": "an image",
        "self.txt": "a link to nothing",
        "sub/loop": "a link to a folder",
    }


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], ["a.txt", "b.md", "drafts/e.txt", "f[1].txt", "sub/c.txt", "sub/deep/d.TXT"]),
        (["*.txt"], [], ["a.txt", "drafts/e.txt", "f[1].txt", "sub/c.txt", "sub/deep/d.TXT"]),
        (["sub/*.txt"], [], ["sub/c.txt"]),
        (["sub/**/*.txt"], [], ["sub/c.txt", "sub/deep/d.TXT"]),
        (["**/*.md", "sub"], ["deep"], ["b.md", "sub/c.txt"]),
        ([], ["*.txt"], ["b.md"]),
        ([], ["/sub/", "drafts"], ["a.txt", "b.md", "f[1].txt"]),
        (["?.txt"], ["[!a]*"], ["a.txt"]),
    ],
)
def test_patterns_choose_files(root: Path, include: list[str], exclude: list[str], expected: list[str]) -> None:
    assert ids(root, include=include, exclude=exclude) == expected


@pytest.mark.parametrize("pattern", ["[", "[]", "[a", "*" * 50 + "b", "a\\b", ""])
def test_odd_patterns_are_patterns(pattern: str) -> None:
    assert Patterns([pattern]).match("nothing/like/it") is False


def test_a_file_that_was_given_is_never_skipped(root: Path) -> None:
    (root / "photo.png").write_bytes(b"\x89PNG")
    (root / "blank.txt").write_bytes(b"")
    for name, message in (("photo.png", "binary data"), ("blank.txt", "empty file")):
        with pytest.raises(InputError, match=message):
            list(read_documents([root / name]))
    assert only(root / ".git" / "config").is_read


def test_a_file_larger_than_allowed_is_not_read(root: Path) -> None:
    outcomes = list(read_files([root], include=["a.txt", "b.md"], max_bytes=4))
    assert sum(isinstance(outcome.error, InputError) for outcome in outcomes) == 2


@pytest.mark.parametrize("name", ["bomb.gz", "bomb.docx", "bomb.epub", "bomb.xlsx", "bomb.pptx"])
def test_what_unpacks_to_more_than_allowed_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(bytes(3_000_000)))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
            container.writestr("word/document.xml", bytes(3_000_000))
    assert path.stat().st_size < 10_000
    error = only(path, max_bytes=1_000_000).error
    assert "expected at most 1,000,000 bytes, got one that unpacks to more" in error.message
    assert "--max-file-bytes" in error.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_with_xml_entities_is_not_read(tmp_path: Path, encoding: str) -> None:
    pytest.importorskip("mammoth")
    bomb = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><d>&b;</d>'
    path = tmp_path / "bomb.docx"
    path.write_bytes(docx())
    with zipfile.ZipFile(path, "a") as container:
        container.writestr("word/footnotes.xml", bomb.encode(encoding))
    assert "declares XML entities in word/footnotes.xml" in only(path).error.message


def test_a_page_nested_too_deep_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "deep.html").write_text("<br>" * 20_000 + "<div>" * 20_000 + "deep", encoding="utf-8")
    (tmp_path / "long.html").write_text("<p>flat</p><br>" * 400 + "</b>" * 9, encoding="utf-8")
    deep, flat = read_files([tmp_path])
    assert "open tags inside each other" in deep.error.message
    assert flat.is_read


def test_a_workbook_of_far_cells_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    monkeypatch.setattr("memrecall_kv.ingest.office._MOST_CELLS", 50_000)
    book = openpyxl.Workbook()
    for row in range(1, 9):
        book.active[f"XFD{row}"] = 1
    (tmp_path / "far.xlsx").write_bytes(saved(book))
    assert "expected at most 50,000 cells" in only(tmp_path / "far.xlsx").error.message


@pytest.mark.parametrize("package", ["mammoth", "openpyxl", "pptx", "defusedxml.ElementTree", "striprtf.striprtf"])
def test_without_a_reader_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    names = {"mammoth": "docx", "openpyxl": "xlsx", "pptx": "pptx", "defusedxml.ElementTree": "epub"}
    path = tmp_path / f"a.{names.get(package, 'rtf')}"
    path.write_bytes(docx())
    monkeypatch.setitem(__import__("sys").modules, package, None)
    error = only(path).error
    assert isinstance(error, MissingDependencyError)
    assert 'pip install "memrecall-kv[documents]"' in error.hint


def test_a_mail_without_a_charset_anybody_knows_is_read(tmp_path: Path) -> None:
    data = mail().replace(b'charset="utf-8"', b'charset="x-nobody"').replace(b"\n\n", b"\n\n", 1)
    (tmp_path / "a.eml").write_bytes(data)
    assert "The ferry für Zoë leaves" in only(tmp_path / "a.eml").document.text


def test_headers_stay_once_and_page_numbers_go(tmp_path: Path) -> None:
    pages = [
        [(50, 800, "Harbour Gazette"), *((50, 700 - 14 * n, f"Line {n} of {p} pages.") for n in range(6)), (290, 30, p)]
        for p in ("1", "2", "3", "4")
    ]
    (tmp_path / "a.pdf").write_bytes(pdf(pages))
    text = only(tmp_path / "a.pdf").document.text
    assert text.count("Harbour Gazette") == 1
    assert [line for line in text.splitlines() if line.strip().isdigit()] == []
    assert text.count("Line 3 of") == 4


def test_a_table_in_a_pdf_stays_by_rows(tmp_path: Path) -> None:
    rows = [(x, 700 - 14 * n, text) for n in range(8) for x, text in ((50, f"City {n}"), (310, f"Limit {n}"))]
    (tmp_path / "a.pdf").write_bytes(pdf([rows]))
    assert "City 3 Limit 3\n" in only(tmp_path / "a.pdf").document.text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("a com-", "munication"), "a communication"),
        (("a well-", "known and well-known man"), "a well-known and well-known man"),
        (("the Anglo-", "Saxon"), "the Anglo-\nSaxon"),
        (("pages 3-", "5"), "pages 3-\n5"),
    ],
)
def test_words_broken_at_line_ends_are_joined(tmp_path: Path, lines: tuple[str, str], expected: str) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([[(50, 700 - 14 * n, line) for n, line in enumerate(lines)]]))
    assert only(tmp_path / "a.pdf").document.text.strip() == expected


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 5), "sheet A, row 1"),
        ((0, 6), "sheet A, rows 1-2"),
        ((4, 19), "sheet A, row 1 to sheet B, row 9"),
        ((18, 21), "sheet B, row 9"),
        ((20, 99), "sheet B, row 9"),
        ((21, 22), ""),
        ((3, 3), "sheet A, row 1"),
        ((-1, 3), ""),
    ],
)
def test_a_span_is_told_by_its_place(span: tuple[int, int], expected: str) -> None:
    sections = [Section([5, 6, 7], "row", "sheet A"), Section([3], "row", "sheet B", first=9), Section([0], "row")]
    assert place_of({"places": to_metadata(sections)}, *span) == expected
    assert place_of({}, *span) == ""


def test_items_without_text_are_counted() -> None:
    metadata = {"places": to_metadata([Section([10, 0, 5], "slide")])}
    assert place_of(metadata, 10, 15) == "slide 3"
    assert place_of(metadata, 0, 15) == "slides 1-3"


def test_two_names_in_other_bytes_are_two_documents(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"caf\xe8.txt"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_text("Text.", encoding="utf-8")
    assert ids(tmp_path) == ["caf\\xe8.txt", "caf\\xe9.txt"]


def test_a_container_with_a_password_is_not_read(tmp_path: Path) -> None:
    data = bytearray(zipped({"a": "x"}))
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        data[data.index(mark) + (6 if mark.endswith(b"\4") else 8)] |= 1
    (tmp_path / "a.epub").write_bytes(data)
    (tmp_path / "b.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + xlsx())
    assert ["password" in str(outcome.error) for outcome in read_files([tmp_path])][:2] == [True, True]
