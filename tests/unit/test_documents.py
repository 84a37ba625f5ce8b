import io
import os
import subprocess
import sys

import pytest
from memrecall_kv.errors import InputError, MemRecallError, MissingDependencyError
from memrecall_kv.ingest import read_documents

PAGE = """<?xml version="1.0"?><html><head><title>House
 rules</title><style>p {}</style></head><body><h1>Rules</h1><p>No <b>loud</b>er than<br>needed.</p>
<ul><li>One</li><li>Two &amp; three</li></ul><script>x()</script></body></html>"""


def pdf(text=None, title=None, locked=False):
    pypdf = pytest.importorskip("pypdf")
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(width=200, height=200)
    if text:
        font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
        font = DictionaryObject({NameObject(key): NameObject(value) for key, value in font.items()})
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(content)
    if title:
        writer.add_metadata({"/Title": title})
    if locked:
        writer.encrypt("open sesame", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "handbook"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "b.txt").write_text("Bee.\n", encoding="utf-8")
    (root / "a.md").write_text("intro\n\n# Title here #\n\ntext\n", encoding="utf-8")
    (root / "deep" / "er" / "c.rst").write_text("Sea.", encoding="utf-8")
    (root / "picture.png").write_bytes(b"\x89PNG\0")
    (root / ".secret.txt").write_text("no", encoding="utf-8")
    (root / ".hidden" / "d.txt").write_text("no", encoding="utf-8")
    return root


def only(path, **options):
    (document,) = read_documents([path], **options)
    return document


def test_a_folder_gives_its_known_files_in_sorted_order_under_relative_ids(folder):
    documents = list(read_documents([folder]))
    assert [document.id for document in documents] == ["a.md", "b.txt", "deep/er/c.rst"]
    assert documents[1].text == "Bee.\n"
    assert documents[1].metadata == {"source": str(folder / "b.txt"), "places": [{"unit": "line", "lengths": [5]}]}


def test_markdown_is_kept_as_it_is_and_its_heading_is_the_title(folder):
    document = only(folder / "a.md")
    assert document.text == "intro\n\n# Title here #\n\ntext\n"
    assert document.metadata["title"] == "Title here"


def test_a_file_given_by_name_is_text_whatever_its_suffix(tmp_path):
    (tmp_path / "notes.log").write_text("Lines.", encoding="utf-8")
    assert only(tmp_path / "notes.log").id == "notes.log"


def test_line_ends_are_kept_so_that_spans_count_the_files_characters(tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"one\r\ntwo\r\n")
    assert only(tmp_path / "dos.txt").text == "one\r\ntwo\r\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding_and_is_no_text(tmp_path, encoding):
    (tmp_path / "marked.txt").write_bytes("Grüße 👋".encode(encoding))
    assert only(tmp_path / "marked.txt").text == "Grüße 👋"
    assert only(tmp_path / "marked.txt", encoding=encoding.removesuffix("-sig")).text == "Grüße 👋"


def test_text_that_is_not_in_the_encoding_that_was_named_is_refused_with_place_and_remedy(tmp_path):
    path = tmp_path / "old.txt"
    path.write_bytes("Liebe Grüße aus dem Süden".encode("cp1252"))
    with pytest.raises(InputError, match=r"old.txt.*utf-8.*byte 8 is 0xfc.*--encoding.*encoding="):
        only(path, encoding="utf-8")
    assert only(path, encoding="cp1252").text == "Liebe Grüße aus dem Süden"
    assert only(path).text == "Liebe Grüße aus dem Süden"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab\0\1\2\3cd", "binary data .a NUL at byte 2"),
        (b"\0", "binary data .a NUL at byte 0"),
        (bytes(range(128, 256)) * 4, "binary data or text in another encoding"),
        (b"", "got an empty file"),
        (b" \n", "got an empty file"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, data, message):
    (tmp_path / "odd.txt").write_bytes(data)
    with pytest.raises(InputError, match=message):
        only(tmp_path / "odd.txt")


def test_an_unknown_encoding_is_refused(folder):
    with pytest.raises(InputError, match="'klingon'"):
        read_documents([folder], encoding="klingon")


def test_a_missing_path_is_refused_before_anything_is_read(folder):
    with pytest.raises(InputError, match=r"gone\.txt"):
        read_documents([folder, folder / "gone.txt"])


def test_problems_in_a_folder_are_raised_after_the_good_files(folder):
    (folder / "a0.txt").write_bytes(b"\0")
    (folder / "z.txt").write_bytes(b"\0")
    documents = read_documents([folder])
    assert [next(documents).id for _ in range(3)] == ["a.md", "b.txt", "deep/er/c.rst"]
    with pytest.raises(InputError, match=r"(?s)2 files could not be read:.*a0\.txt.*z\.txt"):
        next(documents)


def test_problems_can_be_collected_instead(folder):
    (folder / "z.txt").write_bytes(b"\0")
    problems: list[MemRecallError] = []
    assert len(list(read_documents([folder], problems=problems))) == 3
    assert [type(problem) for problem in problems] == [InputError]


def test_a_folder_without_known_files_is_a_problem(tmp_path):
    with pytest.raises(InputError, match=r"Known are \.txt"):
        list(read_documents([tmp_path]))


def test_two_files_with_one_id_are_refused_instead_of_one_replacing_the_other(folder):
    (folder / "deep" / "b.txt").write_text("Other.", encoding="utf-8")
    documents = read_documents([folder / "b.txt", folder / "deep" / "b.txt"])
    assert next(documents).text == "Bee.\n"
    with pytest.raises(InputError, match=r"'b\.txt' like"):
        next(documents)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root and Windows read everything")
def test_an_unreadable_file_is_refused(folder):
    (folder / "b.txt").chmod(0)
    with pytest.raises(InputError, match="permissions"):
        only(folder / "b.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_a_folder_does_not_block(folder):
    os.mkfifo(folder / "pipe.txt")
    assert len(list(read_documents([folder]))) == 3


def test_a_link_to_a_folder_above_is_not_followed(folder):
    (folder / "deep" / "up").symlink_to(folder, target_is_directory=True)
    assert len(list(read_documents([folder]))) == 3


def test_standard_input_is_one_document(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grüße".encode())))
    document = only("-")
    assert (document.id, document.text, document.metadata["source"]) == ("stdin", "Grüße", "-")


def test_html_becomes_paragraphs_without_markup(tmp_path):
    pytest.importorskip("bs4")
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    document = only(tmp_path / "page.html")
    assert document.text == "Rules\n\nNo louder than\nneeded.\n\nOne\n\nTwo & three"
    assert document.metadata["title"] == "House rules"


def test_html_is_read_in_the_encoding_it_declares(tmp_path):
    pytest.importorskip("bs4")
    page = "<html><head><meta charset='iso-8859-1'></head><body><p>Grüße</p></body></html>"
    (tmp_path / "page.htm").write_bytes(page.encode("iso-8859-1"))
    assert only(tmp_path / "page.htm").text == "Grüße"


@pytest.mark.parametrize("text", ["plain words", "https://example.org/", "<div>" * 3000 + "deep" + "</div>" * 3000])
def test_odd_html_is_read_without_warnings(tmp_path, text):
    pytest.importorskip("bs4")
    (tmp_path / "odd.html").write_text(text, encoding="utf-8")
    assert only(tmp_path / "odd.html").text in {text, "deep"}


def test_a_pdf_gives_its_text_and_title(tmp_path):
    (tmp_path / "paper.pdf").write_bytes(pdf("Travel is approved by Dana.", "Travel"))
    document = only(tmp_path / "paper.pdf")
    assert "Travel is approved by Dana." in document.text
    assert document.metadata["title"] == "Travel"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: pdf(), "Run text recognition"),
        (lambda: pdf("Secret.", locked=True), "password"),
        (lambda: b"%PDF-1.4 nothing else", "readable PDF"),
        (lambda: pdf("Cut off.")[:300], "readable PDF"),
        (lambda: b"", "readable PDF"),
    ],
)
def test_a_pdf_that_cannot_be_read_is_refused(tmp_path, data, message):
    (tmp_path / "odd.pdf").write_bytes(data())
    with pytest.raises(InputError, match=message):
        only(tmp_path / "odd.pdf")


@pytest.mark.parametrize(("name", "package"), [("page.html", "bs4"), ("paper.pdf", "pypdf")])
def test_without_the_extra_the_error_names_it_and_the_other_files_are_read(folder, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)  # what an import of a missing package looks like
    (folder / name).write_text("<p>x</p>", encoding="utf-8")
    problems: list[MemRecallError] = []
    assert len(list(read_documents([folder], problems=problems))) == 3
    assert isinstance(problems[0], MissingDependencyError)
    assert 'pip install "memrecall-kv[documents]"' in problems[0].hint


def test_reading_documents_needs_no_torch():
    code = "import sys, memrecall_kv.ingest.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
