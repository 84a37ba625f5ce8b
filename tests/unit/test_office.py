"""What stands in tables, groups and dates of Office files is read, and what is locked is said to be."""

from __future__ import annotations

from datetime import date, datetime, time
from pathlib import Path

import pytest
from memrecall_kv.errors import InputError
from memrecall_kv.ingest import read_documents
from openpyxl import Workbook
from pptx import Presentation
from pptx.util import Inches

BOX = (Inches(1), Inches(1), Inches(4), Inches(1))


def test_tables_and_groups_of_a_slide_are_read(tmp_path: Path) -> None:
    slides = Presentation()
    shapes = slides.slides.add_slide(slides.slide_layouts[6]).shapes
    shapes.add_group_shape().shapes.add_textbox(*BOX).text_frame.text = "Dana approves trips."
    table = shapes.add_table(2, 2, *BOX).table
    for place, text in zip(((0, 0), (0, 1), (1, 0), (1, 1)), ("Trip", "Limit", "Oslo", "500\neuros"), strict=True):
        table.cell(*place).text = text
    slides.save(str(tmp_path / "limits.pptx"))
    (found,) = read_documents([tmp_path / "limits.pptx"])
    assert "Dana approves trips." in found.text
    assert "Trip | Limit\nOslo | 500 euros" in found.text


def test_dates_and_times_of_a_sheet_are_written_as_iso(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["due", datetime(2026, 11, 29), datetime(2026, 11, 29, 8, 30), date(2026, 1, 2), time(9, 15)])
    book.save(tmp_path / "dates.xlsx")
    (found,) = read_documents([tmp_path / "dates.xlsx"])
    assert "due | 2026-11-29 | 2026-11-29T08:30:00 | 2026-01-02 | 09:15:00" in found.text


@pytest.mark.parametrize("suffix", ["docx", "pptx", "xlsx"])
def test_a_document_with_a_password_is_said_to_have_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"locked.{suffix}"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512))
    problems: list[Exception] = []
    assert list(read_documents([path], problems=problems)) == []
    assert "got one with a password" in str(problems[0])
    assert isinstance(problems[0], InputError)
