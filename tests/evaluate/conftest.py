"""A small data folder in the layout of docs/evaluation.md, and a tiny pipeline."""

import gzip
import json
from pathlib import Path

import pytest
from evaluation_settings import SETTINGS
from memrecall_kv.testing import tiny_backbone, tiny_memory

TOWNS = ["Lisbon", "Oslo", "Quito", "Hanoi", "Cairo", "Lima", "Riga", "Doha", "Baku", "Suva", "Male", "Bern"]


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def paragraph(title: str, text: str, supporting: bool = False) -> dict:
    return {"title": title, "text": text, "supporting": supporting}


def multihop_row(number: int, **extra) -> dict:
    town, person = TOWNS[number], f"Person{number}"
    others = [paragraph(f"Distractor {number}-{n}", f"Nothing of note about place {number}-{n}.") for n in range(2)]
    return {
        "id": f"q{number}",
        "question": f"In which town was the author of Book{number} born?",
        "answers": [town, f"{town} City"],
        "type": "bridge" if number % 2 else "comparison",
        "paragraphs": [
            paragraph(person, f"{person} was born in {town}.", True),
            others[0],
            paragraph(f"Book{number}", f"Book{number} is a novel by {person}.", True),
            others[1],
        ],
        **extra,
    }


def pool() -> list[dict]:
    plain = [{"title": f"Page {n}", "text": f"Page {n} tells of river number {n} and its mills."} for n in range(60)]
    # what may never stand in a haystack: an answer, and a copy of a question's own paragraph
    holding = [{"title": f"Guide {town}", "text": f"A guide to {town} and its harbour."} for town in TOWNS]
    copies = [{"title": "Book1", "text": "Book1 is a novel by Person1."}]
    return [*plain, *holding, *copies, *plain[:5]]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a folder with a dozen questions of each kind."""
    folder = tmp_path_factory.mktemp("data")
    hops = [{"id": n, "question": "", "answer": "", "paragraph_support_idx": place} for n, place in enumerate((2, 0))]
    numbers = range(len(TOWNS))
    write(folder / "qa/hotpotqa_dev.jsonl.gz", [multihop_row(n) for n in numbers])
    facts = [[f"Book{n}", "author", f"Person{n}"] for n in numbers]
    wiki = [multihop_row(n, evidences=[facts[n], [f"Person{n}", "place of birth", TOWNS[n]]]) for n in numbers]
    write(folder / "qa/2wikimultihopqa_dev.jsonl.gz", wiki)
    write(folder / "qa/musique_dev.jsonl.gz", [multihop_row(n, decomposition=hops) for n in numbers])
    write(folder / "text/wikipedia_pool.jsonl.gz", pool())
    lines = ["Mary went to the hall.", "John went to the kitchen.", "Mary went to the garden."]
    qas = [{"q": "Where is Mary?", "a": "garden", "upto": 3, "sup": [2]},
           {"q": "Where is John?", "a": "kitchen", "upto": 2, "sup": [1]}]  # fmt: skip
    babi = [{"id": f"babi{n}", "task": 1 + n % 7, "lines": lines, "qas": qas} for n in range(14)]
    write(folder / "stories/babi_en10k_test.jsonl.gz", babi)
    book = "\n\n".join(f"Chapter {n}. " + f"It was day {n} of the voyage. " * 15 for n in range(40))
    write(folder / "text/gutenberg_nltk.jsonl.gz", [{"title": "Book", "text": book}])
    tales = [
        {
            "id": f"tale{n}",
            "sections": [{"n": s, "text": f"Tale {n}, part {s}: the fox met the owl."} for s in (1, 2, 3)],
            "qas": [{"q": f"Whom did the fox of tale {n} meet?", "a": ["the owl"], "sec": [2], "type": "character"}],
        }
        for n in range(5)
    ]
    write(folder / "stories/fairytaleqa_dev.jsonl.gz", tales)
    long = [{"id": f"s{n}", "document": f"Story {n}. " + "They sailed on. " * 30,
             "qas": [{"q": "What is the plot?", "a": ["They sail.", "A voyage."]}]} for n in range(4)]  # fmt: skip
    write(folder / "stories/squality_dev.jsonl.gz", long)
    return folder


@pytest.fixture(scope="session")
def opened():
    """Return a function that opens a tiny pipeline with the given settings, as a run does."""
    backbone = tiny_backbone()
    return lambda config: tiny_memory(config or SETTINGS, backbone=backbone)
