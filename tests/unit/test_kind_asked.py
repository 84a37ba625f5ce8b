"""Replies of another kind than the question asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from memrecall_kv.recall.kind_asked import is_of_kind_asked
from memrecall_kv.recall.spans import spans_instead
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document, Done, Token


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


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("May vinegar be used?", "bleach"),
        ("Was a woman president before her?", "Hanne Berg"),
        ("How high is the rent of the flat?", "1,287 metres"),
        ("How much does the ticket cost?", "90 minutes"),
        ("Was kostet eine Tageskarte?", "nein"),
        ("\u00bfCu\u00e1nto cuesta?", "tres horas"),
        ("How long does the ride take?", "19 euros"),
        ("Quanto dura la salita?", "19 euro"),
        ("How many rooms are there?", "84 euros"),
        ("When did it open?", "$12"),
        ("Where is it kept?", "5 kg"),
        ("What is forbidden?", "No."),
        ("May vinegar be used?", "it says to use the soap"),
        ("Was ist verboten?", "Nein"),
    ],
)
def test_another_kind_than_was_asked_for_is_seen(question: str, reply: str) -> None:
    assert not is_of_kind_asked(question, reply)


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("May vinegar be used?", "No, it harms the seals."),
        ("May vinegar be used?", "it says to use soap and water"),
        ("May vinegar be used?", "It is better to use what the maker sells."),
        ("Is it red or blue?", "blue"),
        ("Was kostet eine Tageskarte?", "5,50 Euro"),
        ("Was ist verboten?", "Hunde"),
        ("How much does the ticket cost?", "nothing"),
        ("How much does the ticket cost?", "twelve a head"),
        ("How long does the ride take?", "until noon"),
        ("How many euros are paid a day?", "32"),
        ("When did it open?", "1987"),
        ("When did it open?", "20 days later"),
        ("What was the first hit?", "Say No More"),
    ],
)
def test_what_may_be_of_the_kind_stays(question: str, reply: str) -> None:
    assert is_of_kind_asked(question, reply)


def test_spans_of_a_kind_come_whole_and_once() -> None:
    texts = ["It costs \u20ac5.50, or 1,200 euros a year; in 90 minutes 20% of 34 visitors pay 5 pounds.", "\u20ac5.50"]
    assert spans_instead("How much does it cost?", "5 kg", texts) == ("\u20ac5.50", "1,200 euros", "5 pounds")
    assert spans_instead("How long does it take?", "5 kg", texts) == ("90 minutes",)
    assert spans_instead("How many visitors pay?", "20%", texts) == ("34",)
    assert spans_instead("How many people come?", "20%", texts) == ("90", "34")
    assert spans_instead("How many people live there?", "20%", ["About 4.5 million."]) == ("4.5 million",)
    assert spans_instead("Is it free?", "visitors", texts) == ("yes", "no")
    assert spans_instead("What is it?", "no", texts) == ()


@pytest.mark.parametrize("reply", ["not found", "Nothing is said of it.", "", "5 pounds", "a fiver"])
def test_what_may_be_of_the_kind_and_what_says_nothing_stands(reply: str) -> None:
    assert spans_instead("How much does it cost?", reply, ["It costs 5 pounds."]) == ()
    assert spans_instead("Is it free?", "not found", ["It costs 5 pounds."]) == ()


@pytest.mark.parametrize("question", ["How much does it cost?", "How long does it take?", "How many are there?"])
@pytest.mark.parametrize(
    "text", ["1" * 20_000 + "a", "1," * 10_000 + "a", "1 - " * 5_000, "two " * 5_000 + "a", "$ " * 9_000, " " * 20_000]
)
def test_long_runs_of_what_begins_a_number_are_read_to_their_end(question: str, text: str) -> None:
    assert all(span in text for span in spans_instead(question, "20%", [text]))
    assert is_of_kind_asked(question, text)


def test_a_reply_of_another_kind_makes_place_for_a_span_of_the_kind(tmp_path: Path) -> None:
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: "20%"))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("people", "372,000 people live there.")])
        assert memory.ask(bank, "How many people live there?").text == "372,000"
        events = memory.stream(bank, "How many people live there?")
        assert "".join(event.text for event in events if isinstance(event, Token)) == "372,000"
        refused = memory.ask(bank, "Who lives there?")
        assert (refused.found, refused.text) == (False, memory.config.reasoner.not_found)


def test_a_refusal_of_a_question_for_yes_or_no_stays_one(tmp_path: Path) -> None:
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: "not found"))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("people", "372,000 people live there.")])
        assert not memory.ask(bank, "Do many people live there?").found


def test_a_reply_of_another_writer_is_refused_not_replaced(tmp_path: Path) -> None:
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: ""))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("people", "372,000 people live there.")])
        events = list(memory.stream(bank, "How many people live there?", write=lambda *_: iter(["20%"])))
        assert events[-1] == Done(events[-1].answer)
        assert not events[-1].answer.found
