"""Replies of another kind than the question asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from memrecall_kv.recall.kind_asked import is_of_kind_asked
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("How many people live in Iceland?", "20%"),
        ("How many people live in Iceland?", "20 percent of the people."),
        ("And how many live there", "12.5 per cent"),
        ("In 2020, how many people lived there?", "5-10 %"),
        ("When was it built?", "20%"),
        ("Who built it?", "20\u066a"),
        ("Wie viele Menschen leben in Island?", "20 Prozent"),
        ("¿Cuántas personas viven en Islandia?", "20 por ciento"),
        ("Combien de personnes ?", "20 pour cent"),
        ("How old is she?", "20 %"),
    ],
)
def test_a_bare_percentage_is_no_count_date_or_person(question: str, reply: str) -> None:
    assert not is_of_kind_asked(question, reply)


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("How many people live in Iceland?", "372,000"),
        ("How many people live in Iceland?", "Three (20%)"),
        ("How many people live in Iceland?", "372,000, 20% more than before"),
        ("How many percent is that?", "20%"),
        ("What share of the people lives there?", "20%"),
        ("How many people, as a percentage?", "20%"),
        ("What is the growth?", "20%"),
        ("How much did it grow?", "20%"),
        ("Which tax applies?", "20%"),
        ("How many people live in Iceland?", "Not found"),
        ("How many people live in Iceland?", ""),
        ("Hur många bor där?", "20 %"),
        ("What did the man who went say?", "20%"),
    ],
)
def test_all_else_may_be_of_the_kind(question: str, reply: str) -> None:
    assert is_of_kind_asked(question, reply)


def test_a_reply_of_another_kind_is_no_answer(tmp_path: Path) -> None:
    replies = iter(["20%", "372,000"])
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: next(replies)))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("people", "372,000 people live there."), Document("share", "20% are young.")])
        refused = memory.ask(bank, "How many people live there?", top_k=1)
        assert (refused.found, refused.text) == (False, memory.config.reasoner.not_found)
        assert memory.ask(bank, "How many people live there?", top_k=1).text == "372,000"
