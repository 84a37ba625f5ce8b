"""Code in the documentation runs and does what the text says; what it names exists, and its prose is plain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig, ChunkingConfig, MemRecallConfig
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Chunk, Document, MemoryBlock

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        RESULTS / "README.md",
        ROOT / "core" / "memrecall_kv" / "default" / "README.md",
    ]
)
GUIDES = [
    f"docs/{page}.md" for page in ("choosing", "deleting", "faq", "how-it-works", "migration", "own-files", "swap")
]
PLAIN = ("README.md", "docs/results.md", "docs/index.md", "benchmarks/results/README.md", *GUIDES)
"""Pages whose lines have at most 100 characters, links apart, and whose sentences have at most 20 words."""


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.S | re.M)


def snippet(page: str) -> str:
    return blocks(page, "python")[0]


@pytest.mark.real
def test_the_readme_prints_what_it_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet("README.md"), "README.md", "exec"), {})  # noqa: S102 - it is ours
    text = read("README.md")
    shown = re.search(r"^```\n(.*?)^```", text[text.index("```python") :].split("```", 2)[2], re.S | re.M)
    assert shown is not None
    assert capsys.readouterr().out == shown.group(1)


class Given:
    """A host's or an adapter's class whose documents come with a fake instead of a model."""

    def __init__(self, cls: Any, **given: Any) -> None:
        self._cls, self._given = cls, given

    def from_documents(self, *arguments: Any) -> Any:
        return self._cls.from_documents(*arguments, **self._given)


def sides(block: str) -> tuple[str, str]:
    """Return what a diff takes away, and the program after it."""
    lines = block.splitlines()
    return (
        "\n".join(line[1:] for line in lines if line.startswith("-")),
        "\n".join(line[1:] for line in lines if not line.startswith("-")),
    )


def run(code: str, **scope: Any) -> dict[str, Any]:
    exec(compile(code, "README.md", "exec"), scope)  # noqa: S102 - it is ours
    return scope


@pytest.fixture
def memory() -> Any:
    """Return a tiny pipeline that finds `Dana` and answers with her sentence."""

    def judge(question: str, memory: Any, block: MemoryBlock) -> float:
        return 0.9

    config = MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=64))
    return tiny_memory(config, gate=ScriptedGate(judge), reasoner=ScriptedReasoner({}, lambda *_: "Dana approves."))


def test_the_llama_index_line_of_the_readme_runs(memory: Any) -> None:
    from llama_index.core import Document, MockEmbedding, VectorStoreIndex

    from llama_index_memrecall import MemRecallIndex

    documents = [Document(id_="travel", text="Dana approves trips.")]
    before, after = sides(blocks("README.md", "diff")[0])
    stock = run(before, VectorStoreIndex=Given(VectorStoreIndex, embed_model=MockEmbedding(4)), documents=documents)
    assert isinstance(stock["index"], VectorStoreIndex)
    changed = run(after, MemRecallIndex=Given(MemRecallIndex, memory=memory), documents=documents)
    response = changed["engine"].query("Who approves trips?")
    assert str(response) == "Dana approves."
    assert [source.node.ref_doc_id for source in response.source_nodes] == ["travel"]
    changed["index"].close()


def test_the_langchain_line_of_the_readme_runs(memory: Any) -> None:
    from langchain_core.documents import Document
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.vectorstores import InMemoryVectorStore

    from langchain_memrecall import MemRecallStore

    pages = [Document(id="travel", page_content="Dana approves trips.")]
    before, after = sides(blocks("README.md", "diff")[1])
    embedding = DeterministicFakeEmbedding(size=4)
    stock = run(before, InMemoryVectorStore=InMemoryVectorStore, embedding=embedding, pages=pages)
    assert isinstance(stock["store"], InMemoryVectorStore)
    changed = run(after, MemRecallStore=Given(MemRecallStore, memory=memory), pages=pages)
    assert [found.id for found in changed["retriever"].invoke("Who approves trips?")] == ["travel"]
    changed["store"].close()


def test_the_imports_of_the_readme_exist() -> None:
    imports = re.findall(r"`(from \w+ import \w+)`", read("README.md"))
    assert len(imports) == 2
    run("\n".join(imports))


@pytest.mark.parametrize("page", ["README.md", "docs/llama-index.md", "docs/langchain.md"])
def test_lines_that_change_stand_in_the_examples(page: str) -> None:
    examples = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*_swap.py"))
    calls = [
        call.group()
        for block in blocks(page, "diff")
        for line in block.splitlines()
        if line[0] in "+-" and (call := re.search(r"\w+\.from_documents\(\w+", line))
    ]
    assert calls
    assert [call for call in calls if call not in examples] == []


def test_the_figures_of_the_readme_stand_among_the_results() -> None:
    rows = [line for line in read("README.md").splitlines() if line.startswith("|")][2:]
    assert 1 <= len(rows) <= 5
    figures = [figure for row in rows for figure in re.findall(r"-?\d[\d,.]* \[[^]]*\]|\d[\d,.]*\d|\d", row)]
    results = read("docs/results.md")
    assert [f for f in figures if not re.search(rf"(?<![\d.,]){re.escape(f)}(?![\d]|[.,]\d)", results)] == []


@pytest.mark.parametrize("name", ["docs/results.md", "docs/choosing.md"])
def test_every_interval_stands_in_the_log_or_the_rows(name: str) -> None:
    page = re.sub(r"<!-- table -->.*<!-- end of table -->", "", read(name), flags=re.S)
    measured = " ".join(
        (read("docs/log.md") + read("benchmarks/results/table/summary.md")).replace("*", "").replace(" %", "").split()
    )
    intervals = re.findall(r"-?\d[\d.]* \[-?\d[^]]*\]", " ".join(page.split()))
    assert intervals
    assert [interval for interval in intervals if interval not in measured] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    assert [link for link in links if not (page.parent / link).exists()] == []
    # the log and the decisions name the code as it was
    history = page.name == "log.md" or page.parent.name == "decisions"
    assert [name for name in paths(text) if not (exists(name) or (history and name.endswith(".py")))] == []


def paths(text: str) -> Iterator[str]:
    """Yield what stands in backticks and looks like a path of the repository."""
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for name in re.findall(r"`((?:[\w.*-]+/)+[\w.*-]*|\d{4}-\d\d-\d\d-[\w-]+)(?::[\w.]+)?`", text):
        if name.endswith(".py") or name.split("/")[0] in tops or re.match(r"\d{4}-\d\d-\d\d-", name):
            yield name


def exists(name: str) -> bool:
    return any(any(folder.glob(name.rstrip("/"))) for folder in (ROOT, ROOT / "core" / "memrecall_kv", RESULTS))


def test_the_index_of_pages_and_the_index_of_results_are_whole() -> None:
    docs = ROOT / "docs"
    linked = {(docs / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", read("docs/index.md"))}
    assert {page for page in docs.rglob("*.md") if page not in linked} == {docs / "index.md"}
    listed = set(re.findall(r"^\| `([\w-]+)` \|", read("benchmarks/results/README.md"), re.M))
    assert {folder.name for folder in RESULTS.iterdir() if folder.is_dir()} == listed
    assert [path.name for path in RESULTS.iterdir() if path.is_file()] == ["README.md"]


@pytest.mark.parametrize("page", PLAIN)
def test_prose_is_plain(page: str) -> None:
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.S | re.M)
    lines = [line for line in prose.splitlines() if not re.match(r"\||!\[|`[^`]*`$", line)]
    assert [line for line in lines if len(re.sub(r"\]\([^)]*\)", "]", line)) > 100] == []
    assert [sentence for sentence in sentences(lines) if len(sentence.split()) > 20] == []


def sentences(lines: list[str]) -> Iterator[str]:
    """Yield the sentences of paragraphs and items; a link counts as its text, code as a word."""
    text = re.sub(r"\n(?!\n|- |#)", " ", "\n".join(lines))
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "code", text))
    for paragraph in text.splitlines():
        yield from re.split(r"(?<=[.:?])\s", paragraph)


def test_entries_of_the_log_are_dated_and_newest_first() -> None:
    dates = [line[3:13] for line in read("docs/log.md").splitlines() if line.startswith("## ")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
    assert dates == sorted(dates, reverse=True)


def test_a_stranger_reads_a_bank_with_the_documented_lines(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(2, 2, 4, 8, generator=generator) for _ in range(2))
    block = MemoryBlock(keys, values, torch.arange(4, dtype=torch.int32)[None, None], 16, 16)
    chunk = Chunk("d", 0, 0, 4, "text", 16)
    with MemoryBank.open(tmp_path / "b", fingerprint={"x": "1"}, config=BankConfig(storage="int8")) as bank:
        bank.put_blocks([(chunk, block)])
        bank.put_document(Document("d", "text"), [chunk])
        (ours,) = bank.blocks([chunk])
    scope: dict = {}
    exec(compile(snippet("docs/bank-format.md"), "bank-format.md", "exec"), scope)  # noqa: S102 - it is ours
    theirs = scope["read_block"](tmp_path / "b", "d", 0)
    for name, expected in (("keys", ours.keys), ("values", ours.values)):
        codes, scale, offset = (theirs[f"{name}{part}"].astype(np.float32) for part in ("", ".scale", ".offset"))
        np.testing.assert_allclose(codes * scale + offset, expected.numpy(), atol=1e-6)
