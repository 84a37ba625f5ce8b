"""Which questions refer to earlier ones, what they could mean, and that the backbone only chooses."""

from __future__ import annotations

import pytest
from memrecall_kv.recall.follow_up import Turn, stand_alone
from memrecall_kv.recall.references import rewrites
from memrecall_kv.testing import tiny_backbone

DANA = ("Who approves travel above the limit?", "Dana Whitfield approves it.")


@pytest.mark.parametrize(
    ("said", "question", "meant"),
    [
        (DANA, "What else does she decide?", "What else does Dana Whitfield decide?"),
        (DANA, "Where is her office?", "Where is Dana Whitfield's office?"),
        (DANA, "Who told her?", "Who told Dana Whitfield?"),
        (DANA, "Why?", "Who approves travel above the limit? Why?"),
        (("Who may sign?", "the managers"), "Where do they sit?", "Where do the managers sit?"),
        (
            ("How long is the notice period?", "Three months."),
            "Who can shorten it?",
            "Who can shorten the notice period?",
        ),
        (("Where is the archive?", "In Graz."), "How do I get there?", "How do I get to Graz?"),
        (("Where is the archive?", "It is in Graz."), "Who works there?", "Who works in Graz?"),
        (("Who won in 2019?", "The team from Bergen."), "Who led that team?", "Who led the team from Bergen?"),
        (("When did the old bridge fall?", "1993"), "How did that happen?", "How did the old bridge happen?"),
        (("What is the fee in France?", "4 euros"), "And in Spain?", "What is the fee in Spain?"),
        (("What is the fee in France?", "4 euros"), "What about the fine?", "What is the fine in France?"),
        (("What does clause 7 regulate?", "Returns."), "And clause 9?", "What does clause 9 regulate?"),
        (("What is a wombat?", "A marsupial."), "It lives where?", "A wombat lives where?"),
    ],
)
def test_a_reference_is_replaced_by_what_was_said(said: tuple[str, str], question: str, meant: str) -> None:
    assert meant in rewrites(question, said, said[0])


@pytest.mark.parametrize(
    "question",
    [
        "What colour is the logo?",
        "Is it allowed to bring dogs to the office?",
        "How long does it take to get a badge?",
        "Is there a doctor in the building?",
        "Are there any parking spaces?",
        "When the warehouse closed, who bought it?",
        "What does Ruth Keller keep in her office?",
        "Which company has its seat in Oslo?",
        "Which rule says that guests pay?",
        "Does the contract say that it ends in May?",
        "What time is it?",
        "travel limits",
        "And who pays?",
        "Wann hat sie ihn abgegeben?",
        "",
        "???",
    ],
)
def test_a_question_that_refers_to_nothing_stays_as_it_is(question: str) -> None:
    assert rewrites(question, DANA, DANA[0]) == []
    assert stand_alone(tiny_backbone(), question, [Turn(*DANA)]) == question


@pytest.mark.parametrize("question", ["What else does she decide?", "And in Spain?", "Why?", "Who leads it?"])
def test_without_anything_before_it_a_question_stays_as_it_is(question: str) -> None:
    assert rewrites(question, []) == []
    assert stand_alone(tiny_backbone(), question, []) == question


def test_a_name_is_not_cut_in_two() -> None:
    found = rewrites("Who saw it?", ["What did the White Rabbit drop?", "His watch in Elm Street"])
    assert "Who saw the White Rabbit?" in found
    assert not {"Who saw the White?", "Who saw Rabbit?", "Who saw Street?"} & set(found)


def test_the_backbone_chooses_among_what_was_said_and_writes_nothing_of_its_own() -> None:
    turns = [Turn("Who runs the archive?", "Ines Faro"), Turn("Who runs the garage?", "Tom Berg")]
    found = stand_alone(tiny_backbone(), "Where does she sit?", turns)
    assert found in {"Where does Ines Faro sit?", "Where does Tom Berg sit?"}


def test_two_references_are_replaced_one_after_the_other() -> None:
    found = stand_alone(
        tiny_backbone(), "Did she send it to the auditors?", [Turn("What did Lena Ortiz write?", "plans")]
    )
    assert found.startswith("Did Lena Ortiz send ")
    assert " it " not in found


def test_long_turns_and_long_questions_are_bounded() -> None:
    backbone, told = tiny_backbone(window=4096), " ".join(f"word{number}" for number in range(5000))
    turns = [Turn(f"What is {told}?", told)] * 50
    assert "word100" not in stand_alone(backbone, "Who leads it?", turns)
    long = f"Who leads it {told}?"
    assert stand_alone(backbone, long, turns) == long
