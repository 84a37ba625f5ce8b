"""The page of a bank lists its documents and the blocks that are still to be made, however many there are."""

import re
import shutil
from pathlib import Path

import pytest
from bank_samples import FINGERPRINT, chunks_of, put
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig
from memrecall_kv.report import bank_page
from memrecall_kv.types import Document
from page_reading import HOSTILE, checked

OLD = Path(__file__).parents[1] / "regression"


@pytest.fixture
def bank(tmp_path):
    with MemoryBank.open(tmp_path / "house.bank", fingerprint=FINGERPRINT) as opened:
        yield opened


def rows(page):
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(<td.*?)</tr>", page)
    ]


def test_documents_and_sizes_are_listed(bank):
    put(bank, Document("trips.md", "Dana approves trips.", {"title": "Trips"}))
    put(bank, Document("same", "\0 is no end of a text", {"title": "same"}))
    page = bank_page(bank)
    assert rows(page) == [["trips.mdTrips", "20", "2", "–"], ["same", "21", "3", "–"]]
    assert "None: every chunk has its block." in page
    text = checked(page).text
    for said in ("house.bank", "2 documents in 5 chunks", "backbone", "tiny"):
        assert said in text
    assert checked(bank_page(bank, "other")).text.count("house.bank") == 0


def test_outlines_say_what_documents_and_chunks_say(bank):
    for number in range(5):
        put(bank, Document(f"d{number}", f"Text {'x' * 7 * number}.", {"number": number}))
    found = bank.outlines(4)
    assert [each.id for each in found] == bank.ids()[:4]
    for each in found:
        assert each.metadata == bank.metadata(each.id)
        assert each.characters == len(bank.document(each.id).text)
        assert each.chunks == len(chunks_of(bank.document(each.id)))
    assert len(bank.outlines(99)) == 5
    assert bank.outlines(0) == []


def test_blocks_that_are_to_be_made_are_told_apart(tmp_path):
    late = Document("late", "0123456789" * 12)
    with MemoryBank.open(
        tmp_path / "b.bank", fingerprint=FINGERPRINT, config=BankConfig(max_bytes=9000, segment_bytes=4096)
    ) as bank:
        for number in range(8):
            put(bank, Document(f"d{number}", f"Words of their own {number}" * 4))
        cuts = chunks_of(late)
        bank.put_document(late, [*cuts[:4], *cuts[5:6]], defer=True)
        stats, found = bank.stats(), {each.id: each for each in bank.outlines(99)}
        page = bank_page(bank)
    assert sum(len(each.deferred) for each in found.values()) == stats.chunks_deferred
    assert sum(len(each.evicted) for each in found.values()) == stats.chunks_evicted > 0
    assert (found["late"].deferred, found["late"].evicted) == ((0, 1, 2, 3, 5), ())
    assert ["late", "0-3, 5", "–"] in rows(page)
    evicted = next(each for each in found.values() if each.evicted)
    assert any(row[0] == evicted.id and row[1] == "–" != row[2] for row in rows(page) if len(row) == 3)
    assert f"{stats.chunks_deferred} chunks never compressed" in checked(page).text


@pytest.mark.parametrize("hostile", [each for each in HOSTILE if "\ud800" not in each], ids=ascii)
def test_whatever_a_document_is_called_stays_text(bank, hostile):
    put(bank, Document(hostile, "Dana approves trips.", {"title": f"{hostile}!"}))
    bank.put_document(Document(f"{hostile} too", "unseen"), chunks_of(Document(f"{hostile} too", "unseen")), defer=True)
    page = checked(bank_page(bank, hostile))
    assert page.text.count("Dana") == 0
    assert len(page.of("script")) == 1


def test_of_many_documents_the_first_are_on_the_page(tmp_path):
    with MemoryBank.open(tmp_path / "many.bank", fingerprint=FINGERPRINT) as bank:
        documents = [Document(f"{number:06}{'x' * 1000}", "a", {"title": "y" * 5000}) for number in range(1200)]
        bank.put_documents([(each, chunks_of(each)) for each in documents], defer=True)
        page = bank_page(bank)
    assert len(page) < 1_500_000
    text = checked(page).text
    assert "The first 1,000 of 1,200, in the order of the bank." in text
    assert "000999" in text
    assert "001000" not in text
    assert "900 more documents left out" in text


def test_an_empty_bank_says_so(bank):
    assert "The bank is empty." in checked(bank_page(bank)).text


@pytest.mark.parametrize("version", ["bank-v1", "bank-v2"])
def test_an_old_bank_is_shown_without_changing_it(tmp_path, version):
    path = shutil.copytree(OLD / version, tmp_path / version)
    with MemoryBank.open(path, read_only=True) as bank:
        outlines = bank.outlines(9)
        assert [(each.id, each.characters) for each in outlines] == [
            (each.id, len(each.text)) for each in bank.documents()
        ]
        checked(bank_page(bank))
