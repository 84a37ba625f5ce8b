"""Of a folder of everyday files, each kind's text is found where it stands, or the reason why not is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from everyday_files import BEGIN, END, PAGE, as_id, everyday_files, table, write
from memrecall_kv.ingest import place_of, read_files
from memrecall_kv.ingest.kinds import READERS, UNREAD
from memrecall_kv.ingest.outcome import FileOutcome

for package in ("pypdf", "cryptography", "bs4", "charset_normalizer", "defusedxml", "mammoth", "openpyxl", "pptx"):
    pytest.importorskip(package)

FILES = everyday_files()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("everyday")
    write(root)
    return root


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, FileOutcome]:
    return {outcome.id: outcome for outcome in read_files([folder])}


def test_every_file_has_one_outcome_in_a_stable_order(outcomes: dict[str, FileOutcome]) -> None:
    assert len(FILES) >= 55
    assert list(outcomes) == sorted(as_id(file.name) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: as_id(file.name))
def test_each_kinds_text_is_found_in_its_place(outcomes: dict[str, FileOutcome], file: object) -> None:
    outcome = outcomes[as_id(file.name)]
    told = outcome.skipped or (outcome.error.message.split(": ", 1)[1] if outcome.error else "read")
    assert told.startswith(file.outcome)
    assert outcome.note.startswith(file.note)
    assert bool(outcome.note) == bool(file.note)
    if outcome.document is not None:
        start = outcome.document.text.index(file.wanted)
        assert place_of(outcome.document.metadata, start, start + len(file.wanted)) == file.place
        lengths = [sum(section["lengths"]) for section in outcome.document.metadata.get("places", [])]
        assert sum(lengths) in (0, len(outcome.document.text))


@pytest.mark.parametrize("name", ["report.docx", "slides.pptx", "budget.xlsx", "book.epub", "paper.pdf", "letter.rtf"])
def test_a_damaged_file_is_one_outcome(folder: Path, tmp_path: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole), len(whole) // 7):
        (tmp_path / f"{place:06}-{name}").write_bytes(whole[:place] + b"\xff\x00\xfe<" + whole[place + 4 :])
        (tmp_path / f"{place:06}-cut-{name}").write_bytes(whole[:place])
    (tmp_path / "z.txt").write_text("Last.", encoding="utf-8")
    outcomes = list(read_files([tmp_path]))
    assert len(outcomes) == len(list(tmp_path.iterdir()))
    assert outcomes[-1].is_read


def test_the_page_shows_the_outcomes_and_names_every_suffix(folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = page.split(BEGIN)[1].split(END)[0]
    assert shown == table(folder), "renew it: python tests/unit/everyday_files.py"
    suffixes = [*READERS, *(f".{suffix}" for group in UNREAD.values() for suffix in group.split())]
    assert [suffix for suffix in suffixes if f"`{suffix}`" not in page] == []
