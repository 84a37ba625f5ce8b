"""Spans that stand in the place of a reply that is of the kind asked for, but from elsewhere in the texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from memrecall_kv.recall.spans import settled, spans_instead
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document

MINUTES = "Minutes of 27 June. The budget was agreed on. The next meeting is on 2 July at 10:00. Lunch is at noon."
CONTRACT = (
    "The deposit is 1,880 pounds, paid in two parts. The rent is 940 pounds a month. Pets are allowed. It is red."
)
MACHINE = "It stands 20 centimetres from the wall. The tank holds 1.8 litres. Its power is 1,450 watts. It weighs 9 kg."


@pytest.mark.parametrize(
    ("question", "reply", "texts", "spans"),
    [
        ("When is the next meeting?", "27 June", [MINUTES], ("2 July",)),
        ("When is the next meeting?", "27 june.", [MINUTES], ("2 July",)),
        ("When is the next meeting?", "27 June", ["Minutes of 27 June.", "The next meeting: 2 July"], ("2 July",)),
        ("How high is the rent?", "1,880 pounds", [CONTRACT], ("940 pounds",)),
        ("How much is paid for rent each month?", "1,880 pounds", [CONTRACT], ("940 pounds",)),
        ("How much does the tank hold?", "20 centimetres", [MACHINE], ("1.8 litres",)),
        (
            "How many rooms has the inn?",
            "7",
            ["It is at 17 Shore Road, open from 7 to 10. The inn has 22 rooms. In 1987 rooms were few. It is blue."],
            ("22",),
        ),
        (
            "Wann beginnt das Fest?",
            "1998",
            ["Der Verein besteht seit 1998. Er hat Mitglieder. Das Fest beginnt am 3. Juni 2024. Es gibt Brot."],
            ("3. Juni 2024",),
        ),
        (
            "\u00bfCu\u00e1ndo abri\u00f3 la biblioteca?",
            "2003",
            ["Fue pintada en 2003. Es grande. La biblioteca abri\u00f3 el 3 de octubre de 1987. Hay sillas."],
            ("3 de octubre de 1987",),
        ),
        (
            "Quand l'usine a-t-elle ouvert ?",
            "1950",
            ["Le pont date de 1950. Il est long. L'usine a ouvert le 4 mai 1928. Elle est rouge."],
            ("4 mai 1928",),
        ),
    ],
)
def test_the_sentence_that_shares_most_with_the_question_wins(
    question: str, reply: str, texts: list[str], spans: tuple[str, ...]
) -> None:
    assert spans_instead(question, reply, texts) == spans


@pytest.mark.parametrize(
    ("question", "reply", "texts"),
    [
        ("When is the next meeting?", "2 July", [MINUTES]),
        ("When is the next meeting?", "2 July at 10:00", [MINUTES]),
        # a date that no text says, and one that stands in both sentences
        ("When is the next meeting?", "3 July", [MINUTES]),
        ("When is the next meeting?", "27 June", [MINUTES, "The next meeting is not on 27 June."]),
        ("Who chairs the next meeting?", "27 June", [MINUTES]),
        (
            "From which date do the rules apply?",
            "1 March 2025",
            ["It applies to trips from 1 March 2025. It replaces the rules of 2019. It is so. Keep it.", "Well."],
        ),
        (
            "How many people live in Velmora?",
            "214,600",
            ["Velmora has 214,600 inhabitants. People who live in Velmora use three more letters. It is an isle. Yes."],
        ),
        ("When is the next meeting?", "not found", [MINUTES]),
        ("When does it begin?", "27 June", [MINUTES]),
        ("How many keys are there?", "1998", ["There are keys in 2 rooms. It was built in 1998. It is red. So it is."]),
        ("When is it?", "27 June", []),
    ],
)
def test_a_reply_stands_where_no_sentence_is_much_nearer(question: str, reply: str, texts: list[str]) -> None:
    assert spans_instead(question, reply, texts) == ()


def test_a_number_gets_the_unit_that_stands_behind_it() -> None:
    assert spans_instead("How much power does it use?", "1,450", [MACHINE]) == ("1,450 watts",)
    assert spans_instead("How heavy is it?", "9", [MACHINE]) == ("9 kg",)
    assert spans_instead("How many watts does it use?", "1,450", [MACHINE]) == ()


ISLANDS = "Velm has 8,914 square kilometres. It has 214,600 inhabitants. It is green. Some 20 songs are sung."


@pytest.mark.parametrize(
    ("question", "reply", "texts", "spans"),
    [
        ("How many songs are sung in Velm?", "8,914", [ISLANDS], ("20",)),
        ("How many people live in Velm?", "8,914", [ISLANDS], ("214,600", "20")),
        ("How many square kilometres has Velm?", "8,914", [ISLANDS], ()),
        ("How many keys are there?", "5", ["There are 3 keys. They cost 5 euros."], ("3",)),
        ("How many keys are there?", "5", ["There are 3 keys. They cost 5 euros. Key 5 is lost."], ()),
        ("How many keys are there?", "5", ["There are 3 keys. They cost 5.50 euros."], ()),
        ("How many days may one stay?", "14", ["One may stay for 14 days. It costs 5 euros."], ()),
        ("How many keys are there?", "five", ["There are 3 keys. They cost 5 euros."], ()),
    ],
)
def test_a_number_with_another_unit_is_no_count(
    question: str, reply: str, texts: list[str], spans: tuple[str, ...]
) -> None:
    assert spans_instead(question, reply, texts) == spans


@pytest.mark.parametrize(
    ("question", "reply", "text", "days"),
    [
        (
            "On which days is it closed?",
            "14",
            "It is closed on Mondays, Tuesdays and on Friday. It has 14 beds.",
            ("Mondays, Tuesdays and on Friday",),
        ),
        (
            "What days is the course?",
            "two hours",
            "The course is Monday to Friday. It takes two hours.",
            ("Monday to Friday",),
        ),
        (
            "An welchen Tagen ist Training?",
            "18 Euro",
            "Training ist dienstags und donnerstags. Es kostet 18 Euro.",
            ("dienstags und donnerstags",),
        ),
        (
            "Quels jours ont lieu les visites ?",
            "14 heures",
            "Les visites ont lieu le mardi et le jeudi \u00e0 14 heures.",
            ("mardi et le jeudi",),
        ),
        (
            "\u00bfQu\u00e9 d\u00edas abre?",
            "5 euros",
            "Abre s\u00e1bados y domingos. Cuesta 5 euros.",
            ("s\u00e1bados y domingos",),
        ),
        (
            "In quali giorni \u00e8 chiuso?",
            "8",
            "\u00c8 chiuso luned\u00ec e la domenica. Ha 8 camere.",
            ("luned\u00ec e la domenica",),
        ),
        (
            "Em que dias abre?",
            "8",
            "Abre \u00e0s quintas-feiras e ao s\u00e1bado, das 8 \u00e0s 9.",
            ("quintas-feiras", "s\u00e1bado"),
        ),
        (
            "Op welke dagen is het open?",
            "8",
            "Het is open op maandag, woensdag en vrijdag tot 8.",
            ("maandag, woensdag en vrijdag",),
        ),
        ("On which days is it closed?", "Mondays", "It is closed on Mondays and Fridays.", ()),
        ("On which days is it closed?", "4 May and 5 May", "It is closed on 4 May and 5 May. It opens on Monday.", ()),
    ],
)
def test_days_are_days(question: str, reply: str, text: str, days: tuple[str, ...]) -> None:
    assert spans_instead(question, reply, [text]) == days


@pytest.mark.parametrize(
    ("question", "reply", "spans"),
    [
        ("What percentage of the people live in the capital?", "51,200", ("38 percent",)),
        ("What share of the people lives in the capital?", "120", ("38 percent",)),
        ("How many percent live in the capital?", "5 euros", ("38 percent",)),
        ("Wie viel Prozent leben in der Stadt?", "51.200", ("38 percent",)),
        ("What percentage of the people live in the capital?", "38", ("38 percent",)),
        ("What share of the people lives in the capital?", "one third", ()),
        ("What share of the people lives in the capital?", "12.5", ()),
        ("What is the share of the capital?", "120", ()),
    ],
)
def test_a_share_is_of_a_hundred(question: str, reply: str, spans: tuple[str, ...]) -> None:
    text = "Of the people 38 percent live in the capital, 51,200 of them in the port. It has 120 shops."
    assert spans_instead(question, reply, [text]) == spans


def test_of_replies_of_another_kind_only_the_nearest_spans_are_chosen_from() -> None:
    assert spans_instead("How high is the rent?", "two weeks", [CONTRACT]) == ("940 pounds",)


def test_thousands_are_no_date() -> None:
    text = "It has 62.000 books. It opened on 3 October 1987."
    assert spans_instead("When did it open?", "62.000 books", [text]) == ("3 October 1987",)
    for reply in ("12,000 years ago", "12,000 BC", "12,000,000 B.C."):
        assert spans_instead("When did people come here?", reply, [text]) == ()


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("on the first of October, and the second may follow", ("first of October",)),
        ("You may 1 day see it; they march 20 miles.", ()),
        ("in 1987, 2,004 of them, 1998.5 and A1950", ("1987",)),
        ("June 4, 1998 and 1980s and 2024-03-01 and 4/7/98", ("June 4, 1998", "1980s", "2024-03-01", "4/7/98")),
        (
            "il 4 maggio 1950 o 5 de mar\u00e7o de 1951 of 6 maart",
            ("4 maggio 1950", "5 de mar\u00e7o de 1951", "6 maart"),
        ),
    ],
)
def test_dates_are_read_whole(text: str, dates: tuple[str, ...]) -> None:
    assert spans_instead("When was it?", "5 kg", [text]) == dates


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("1 " * 20_000, ()),
        ("4 May " * 5_000, ("4 May",)),
        ("1987" * 5_000, ()),
        ("first " * 9_000 + "of May", ("first of May",)),
        ("9." * 9_000, ()),
    ],
)
def test_long_texts_are_read_in_one_pass(text: str, dates: tuple[str, ...]) -> None:
    assert spans_instead("When was it?", "5 kg", [text]) == dates


def test_one_span_is_taken_and_of_several_one_is_chosen() -> None:
    def choose(spans: Sequence[str]) -> str:
        assert len(spans) > 1
        return spans[-1]

    assert settled("When is the next meeting?", "27 June", [MINUTES], choose) == "2 July"
    assert settled("When is the next meeting?", "2 July", [MINUTES], choose) == "2 July"
    assert settled("How much does it cost?", "5 kg", ["It costs 3 pounds, or 4 euros."], choose) == "4 euros"


def test_an_answer_is_of_the_nearest_sentence(tmp_path: Path) -> None:
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: "27 June"))
    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [Document("minutes", MINUTES)])
        answer = memory.ask(bank, "When is the next meeting?")
        assert (answer.text, answer.grounded) == ("2 July", True)
        assert memory.ask(bank, "When was it written down?").text == "27 June"
