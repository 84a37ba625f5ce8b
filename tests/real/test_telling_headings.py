"""Documents that only their metadata tell apart, with the default model."""

from __future__ import annotations

from pathlib import Path

import pytest
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.types import Document, Heading

pytestmark = pytest.mark.real

REVENUE = {
    ("Northwind", 2022): "four",
    ("Northwind", 2023): "six",
    ("Contoso", 2022): "nine",
    ("Contoso", 2023): "eleven",
    ("Fabrikam", 2022): "two",
    ("Fabrikam", 2023): "three",
}
TITLES = {
    "Travel policy": "The head of finance approves every request. A form is needed.",
    "Parking policy": "The caretaker approves every request. A form is needed.",
    "Training policy": "The head of staff approves every request. A form is needed.",
}


@pytest.fixture(scope="module")
def memory() -> MemRecall:
    return MemRecall.from_pretrained()


def shown(**metadata: object) -> Heading:
    """What LlamaIndex shows of metadata by default."""
    text = "\n".join(f"{key}: {value}" for key, value in metadata.items()) + "\n\n"
    return Heading(text, text)


def test_company_and_year_tell_equal_reports_apart(memory: MemRecall, tmp_path: Path) -> None:
    documents = [
        Document(
            f"{company} {year}",
            f"The revenue was {sum_} million euros. The number of employees grew.",
            heading=shown(company=company, year=year),
        )
        for (company, year), sum_ in REVENUE.items()
    ]
    with memory.open_bank(tmp_path / "b") as bank:
        memory.ingest(bank, documents)
        for (company, year), sum_ in REVENUE.items():
            answer = memory.ask(bank, f"What was the revenue of {company} in {year}?", top_k=1)
            assert answer.found
            assert answer.evidence[0].chunk.doc_id == f"{company} {year}"
            assert sum_ in answer.text
            assert "company" not in answer.evidence[0].text


@pytest.mark.parametrize("turn", [0, 1])
def test_titles_tell_policies_apart_and_swapped_titles_the_other_way(
    memory: MemRecall, tmp_path: Path, turn: int
) -> None:
    titles, texts = list(TITLES), list(TITLES.values())
    texts = [*texts[turn:], *texts[:turn]]
    with memory.open_bank(tmp_path / "b") as bank:
        memory.ingest(bank, [Document(t, text, heading=shown(title=t)) for t, text in zip(titles, texts, strict=True)])
        for title, text in zip(titles, texts, strict=True):
            (best, *_) = memory.recall(bank, f"Who approves a request under the {title.lower()}?")
            assert best.chunk.doc_id == title
            assert best.text == text
