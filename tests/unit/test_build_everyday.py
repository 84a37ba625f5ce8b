"""The script that makes up everyday texts: what it asks is in them, and none of it is from the texts of `eval`."""

from __future__ import annotations

import json
import re
import runpy
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "build_everyday.py"))
document, size = SCRIPT["document"], SCRIPT["size"]
SAID_OTHERWISE = {"yes", "no", "more", "less", "in summer", "in winter", "walking", "the bus"}


def rows(count: int = 150) -> list[dict]:
    return [row for number in range(count) for row in document(number, 0)]


def test_an_answer_stands_in_its_text() -> None:
    seen = 0
    for row in rows():
        (answer,), text = row["answers"], row["paragraphs"][0]["text"]
        if answer not in SAID_OTHERWISE:
            parts = re.split(r"^(?:from|until|in|bus|every|that|the|le|von|\d+ to) | to | et le | and (?=\d)", answer)
            assert all(part.lower() in text.lower() for part in filter(None, parts)), (answer, text)
            seen += 1
        assert not re.search(r"[{}\[\]|]", row["question"] + answer + text), row
    assert seen > 2000


def test_a_question_has_one_answer_in_its_text() -> None:
    answers = defaultdict(set)
    for row in rows():
        answers[row["group"], row["paragraphs"][0]["text"], row["question"]].add(row["answers"][0])
    assert all(len(found) == 1 for found in answers.values())


def test_the_same_seed_makes_the_same_texts() -> None:
    assert list(document(7, 1)) == list(document(7, 1)) != list(document(7, 2))


def test_what_follows_from_a_limit_follows() -> None:
    seen = defaultdict(int)
    for row in rows(400):
        text, question, answer = row["paragraphs"][0]["text"], row["question"], row["answers"][0]
        group, asked = re.search(r"Groups of more than (\w+) must", text), re.match(r"Must a group of (\d+) ", question)
        if group and asked:
            seen[answer] += 1
            assert answer == ("yes" if int(asked[1]) > size(group[1]) else "no")
        repair = re.search(r"Repairs below (\D?[\d,.]+\w*) .* by the ([\w ]+), all others by (\w+ \w+)\.", text)
        asked = re.search(r"^Who .* repair.* (\D?\d+)", question)
        if repair and asked:
            is_below = size(asked[1]) < size(repair[1])
            seen["below" if is_below else "above"] += 1
            assert answer == (f"the {repair[2]}" if is_below else repair[3])
    assert min(seen[each] for each in ("yes", "no", "below", "above")) >= 5


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("\u20ac9.50", "10 pounds"),
        ("two hours", "three hours"),
        ("45 minutes", "two hours"),
        ("1,200", "46,877"),
        ("28 February", "the first of March"),
        ("the first of March", "the third of March"),
        ("December 24, 1998", "3 January 1999"),
    ],
)
def test_sizes_are_told_apart(less: str, more: str) -> None:
    assert size(less) < size(more)


def test_nothing_is_from_the_questions_of_the_evaluation() -> None:
    packed = json.loads((files("memrecall_kv") / "data" / "everyday.json").read_text(encoding="utf-8"))
    made = rows(300)
    asked = {row["question"].lower() for row in made}
    texts = "\n".join(row["paragraphs"][0]["text"] for row in made).lower()
    for each in packed["documents"]:
        for question in each["questions"]:
            assert question["ask"].lower() not in asked
            if len(question["span"].split()) > 3:
                assert question["span"].lower().rstrip(".") not in texts
