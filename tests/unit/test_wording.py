"""Replies in the words of the texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memrecall_kv.recall.wording import as_written
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document

FARM = (
    "La fromagerie est \u00e0 Saint-Aubin. \u00c9lise, sa petite-fille, la dirige. "
    "Les visites sont \u00e0 14 heures, ou \u00e0 16 heures."
)
LIBRARY = "La biblioteca abri\u00f3 el 3 de octubre de 1987. El 3 de octubre de 1997 cerr\u00f3."
GLARE = "The Unified Glare Rating was adopted. Many judges say so; the judge does not. A republic, they say."


@pytest.mark.parametrize(
    ("reply", "text", "written"),
    [
        ("Elise", FARM, "\u00c9lise"),
        ("14 heres", FARM, "14 heures"),
        ("14 Heres.", FARM, "14 heures"),
        ("16 heurs", FARM, "16 heures"),
        ("3 de octubre of 1987", LIBRARY, "3 de octubre de 1987"),
        ("3 de octobre of 1997", LIBRARY, "3 de octubre de 1997"),
        ("Universal Glare Rating", GLARE, "Unified Glare Rating"),
        ("republican", GLARE, "republic"),
        ("Rolf Putzinger", "Rolf Putziger's farm", "Rolf Putziger"),
        ("Rolf Putziger", "Rolf Putziger's farm", "Rolf Putziger"),
    ],
)
def test_a_word_that_no_text_holds_is_one_of_theirs(reply: str, text: str, written: str) -> None:
    assert as_written(reply, [text]) == written
    assert as_written(reply, ["Something else.", text]) == written


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("14 heures", FARM),
        ("15 heures", FARM),  # no text says so: nor do we
        ("15 heres", FARM),
        ("\u00c9LISE", FARM),
        ("yes", "Ye who enter."),
        ("no", FARM),
        ("judges say", GLARE),  # two words of theirs that do not stand together
        ("Moscow", GLARE),
        ("not found", FARM),
        ("", FARM),
        ("...", FARM),
        ("Elise", ""),
        ("two words more than there are", "two"),
    ],
)
def test_what_the_texts_hold_or_know_nothing_like_stays(reply: str, text: str) -> None:
    assert as_written(reply, [text]) == reply
    assert as_written(reply, []) == reply


@given(st.lists(st.text("ab1 .", max_size=30), max_size=3), st.text("abc1 .", max_size=12))
def test_what_is_written_instead_stands_in_a_text_and_has_the_digits_of_the_reply(texts: list[str], reply: str) -> None:
    written = as_written(reply, texts)
    if written != reply:
        assert any(written in text for text in texts)
        assert [c for c in written if c.isdigit()] == [c for c in reply if c.isdigit()]
        assert as_written(written, texts) == written


def test_an_answer_is_as_its_document_writes_it(tmp_path: Path) -> None:
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: "Elise"))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("farm", FARM)])
        answer = memory.ask(bank, "Qui dirige la fromagerie ?")
    assert (answer.text, answer.grounded) == ("\u00c9lise", True)
    assert [quote.verdict for quote in answer.quotes] == ["found"]
