"""What an answer's claims rest on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memrecall_kv.recall.quotes import quotes_of, words_of
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from memrecall_kv.types import Chunk, Document, Heading, Quote, Recall

FERRY = "The ferry leaves at nine. It carries 1,240 people and 20% of them are children. The deck is blue."
NORTH = "Akraborg sails to the north. Herjolfur sails to the south. Saefari rests in winter. Baldur is new."


def recalled(*texts: str, heading: str = "") -> list[Recall]:
    read = Heading(read=heading)
    return [
        Recall(Chunk(f"d{place}", 0, 100, 100 + len(text), text, 1, read), 0.9 - place / 10, place)
        for place, text in enumerate(texts)
    ]


def the_only(answer: str, question: str, *texts: str, heading: str = "") -> Quote:
    (quote,) = quotes_of(answer, question, recalled(*texts, heading=heading))
    return quote


def test_a_claim_rests_on_the_sentence_that_holds_it() -> None:
    quote = the_only("1240 people", "How many people does the ferry carry?", NORTH, FERRY)
    start = FERRY.index("It carries")
    assert (quote.verdict, quote.doc_id, quote.chunk_id) == ("found", "d1", "d1#0")
    assert quote.text == "It carries 1,240 people and 20% of them are children."
    assert (quote.start, quote.end) == (100 + start, 100 + start + len(quote.text))


def test_two_sentences_in_a_row_are_quoted_where_one_does_not_do() -> None:
    quote = the_only("The ferry leaves at nine and carries 1,240", "What of it?", FERRY)
    assert quote.verdict == "found"
    assert quote.text == FERRY[: FERRY.index(" The deck")]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("The deck is blue", "found"),
        ("blue", "found"),
        ("The deck is not blue", "partly"),
        ("The deck is green", "partly"),
        ("green with yellow stripes", "not found"),
        ("12", "not found"),
        ("240", "not found"),
        ("1.240", "found"),
        ("20 percent", "found"),
        ("20 Prozent", "found"),
        ("20 people", "partly"),
        ("$20", "partly"),
        ("2", "not found"),
        ("...", "not found"),
    ],
)
def test_all_words_of_a_claim_are_looked_for_and_numbers_are_whole(answer: str, verdict: str) -> None:
    text = FERRY.replace("1,240 people", "1,240")
    assert the_only(answer, "What of it?", text).verdict == verdict


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,234,567", "1.234.567"),
        ("1 234 567", "1234567"),
        ("1'234", "1234"),
        ("12.50", "12,5"),
        ("1,234.5", "1.234,50"),
        ("١٢", "12"),
        ("１２", "12"),
    ],
)
def test_a_number_is_the_same_however_its_digits_are_grouped(one: str, other: str) -> None:
    assert words_of(one) == words_of(other)


@pytest.mark.parametrize(
    ("one", "other"), [("12.5", "125"), ("12", "12,500"), ("1,5", "15"), ("0.5", "5"), ("2020 300", "2,020,300")]
)
def test_numbers_that_differ_are_told_apart(one: str, other: str) -> None:
    assert words_of(one) != words_of(other)


def test_items_of_a_list_are_quoted_one_by_one() -> None:
    quotes = quotes_of("Akraborg, Herjolfur, Gullfoss and Baldur.", "Which ships are there?", recalled(NORTH))
    assert [quote.claim for quote in quotes] == ["Akraborg", "Herjolfur", "Gullfoss", "Baldur"]
    assert [quote.verdict for quote in quotes] == ["found", "found", "not found", "found"]
    assert quotes[1].text == "Herjolfur sails to the south."
    assert quotes[2] == Quote("Gullfoss", 21, "not found")


def test_a_bare_yes_may_have_a_reason_and_proves_nothing() -> None:
    quote = the_only("Yes.", "Is the deck of the ferry blue?", FERRY)
    assert (quote.verdict, quote.text) == ("partly", "The deck is blue.")
    assert the_only("Yes.", "Who knows?", FERRY).verdict == "not found"
    assert the_only("Yes, the deck is red.", "Is the deck blue?", FERRY).verdict == "not found"
    assert the_only("Yes, it is blue.", "Is it?", FERRY).text == "The deck is blue."


def test_the_question_needs_no_proof_and_its_heading_counts() -> None:
    assert the_only("Bob carries 1,240", "How many does Bob carry?", FERRY).verdict == "found"
    assert the_only("The Contoso ferry leaves at nine", "When?", FERRY, heading="Contoso\n\n").verdict == "found"
    assert the_only("The Fabrikam ferry leaves at nine", "When?", FERRY, heading="Contoso\n\n").verdict == "partly"


def test_of_equal_spans_that_of_the_more_probable_text_is_quoted() -> None:
    same = "The deck is blue."
    assert the_only("blue", "What is the deck?", same, same).doc_id == "d0"


def test_scripts_without_spaces_and_other_forms_are_found() -> None:
    assert the_only("北京", "首都在哪里？", "上海很大。首都是北京。").text == "首都是北京。"
    assert the_only("two children", "Who plays?", "A dog sleeps. Two child actors are playing.").verdict == "partly"
    assert the_only("Zwei Fähren", "Was fährt?", "ZWEI FÄHREN fahren.").verdict == "found"
    assert the_only("Zwei Fa\u0308hren", "Was fährt?", "Zwei Fähren fahren.").verdict == "found"


def test_no_text_and_no_answer_have_no_quotes() -> None:
    assert quotes_of("", "Who?", recalled(FERRY)) == ()
    assert quotes_of("blue", "Who?", []) == (Quote("blue", 0, "not found"),)
    assert quotes_of("blue", "Who?", recalled("  \n ")) == (Quote("blue", 0, "not found"),)


@pytest.mark.parametrize("refusal", ["Not found in the documents.", "The text does not mention the deck.", "None."])
def test_what_says_that_there_is_no_answer_claims_nothing(refusal: str) -> None:
    assert quotes_of(refusal, "What is the deck?", recalled(FERRY)) == ()
    (quote,) = quotes_of(f"The ferry leaves at nine. {refusal}", "What is the deck?", recalled(FERRY))
    assert (quote.claim, quote.verdict) == ("The ferry leaves at nine.", "found")


def test_of_an_endless_answer_the_beginning_is_quoted() -> None:
    assert len(quotes_of("The deck is blue. " * 2_000, "What?", recalled(FERRY))) == 500


@given(st.lists(st.sampled_from(["The deck is blue.", "It rains.", "No, 3.", "Akraborg, Baldur"]), max_size=5))
def test_what_is_quoted_does_not_depend_on_what_follows(claims: list[str]) -> None:
    recalls = recalled(FERRY, NORTH)
    whole = quotes_of(" ".join(claims), "What?", recalls)
    for count in range(len(claims)):
        begun = quotes_of(" ".join(claims[:count]), "What?", recalls)
        if not claims[:count] or claims[count - 1].endswith("."):
            assert whole[: len(begun)] == begun


@given(st.text(max_size=200), st.text(max_size=60), st.lists(st.text(max_size=120), max_size=3))
def test_a_span_is_verbatim_and_a_claim_stands_in_the_answer(answer: str, question: str, texts: list[str]) -> None:
    recalls = recalled(*texts)
    for quote in quotes_of(answer, question, recalls):
        assert answer[quote.claim_start :].startswith(quote.claim)
        if quote.verdict == "not found":
            assert quote == Quote(quote.claim, quote.claim_start, "not found")
        else:
            (chunk,) = (recall.chunk for recall in recalls if recall.chunk.id == quote.chunk_id)
            assert chunk.text[quote.start - chunk.start : quote.end - chunk.start] == quote.text


def test_an_answer_has_its_quotes_and_a_refusal_none(tmp_path: Path) -> None:
    replies = iter(["The ferry leaves at nine.", "Nothing relevant."])
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: next(replies)))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("ferry", "It rains. The ferry leaves at nine.")])
        (quote,) = memory.ask(bank, "When does it leave?", top_k=1).quotes
        assert (quote.verdict, quote.doc_id, quote.start, quote.end) == ("found", "ferry", 10, 35)
        assert memory.ask(bank, "When does it sink?", top_k=1).quotes == ()
