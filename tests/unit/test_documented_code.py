"""The Python of the guides runs, block after block, with a tiny model in the place of the default one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, Settings
from llama_index.core.llms import MockLLM
from memrecall_kv import MemRecall, MemRecallConfig
from memrecall_kv.config import ChunkingConfig, ScanConfig
from memrecall_kv.hosts import lazy
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory

ROOT = Path(__file__).parents[2]

RUN_HERE = ("choosing.md", "deleting.md", "files.md", "how-it-works.md", "migration.md", "own-files.md", "swap.md")
RUN_ELSEWHERE = {
    "bank-format.md": "tests/unit/test_documentation.py",
    "langchain.md": "tests/adapters/langchain/test_langchain_docs.py",
    "llama-index.md": "tests/adapters/llama_index/test_llama_index_examples.py",
    "serving.md": "tests/serve/test_server.py",
    "remote.md": "tests/serve/test_remote.py",
    "report.md": "tests/unit/test_answer_page.py",
    "sharding.md": "tests/distributed/test_ray_ingest.py",
}


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S | re.M)


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Return what the pages take for granted; a model that is loaded by name is a tiny one that answers with Dana."""
    from langchain_core.embeddings import DeterministicFakeEmbedding

    config = MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=64), scan=ScanConfig(candidates=32))
    reasoner = ScriptedReasoner({}, lambda *_: "Dana Whitfield does.")
    memory = tiny_memory(config, gate=ScriptedGate(lambda *_: 0.9), reasoner=reasoner)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lazy, "_load", lambda *_: memory)
    monkeypatch.setattr(MemRecall, "from_pretrained", lambda **_: memory)
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=4))
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "travel.md").write_text("# Travel\n\nDana Whitfield approves trips.\n", encoding="utf-8")
    with memory.open_bank("found.bank") as bank:
        from memrecall_kv.ingest import read_documents

        memory.ingest(bank, read_documents(["handbook"]))
        (document,) = bank.documents()
        (chunk,) = bank.chunks()
    return {"embedding": DeterministicFakeEmbedding(size=4), "document": document, "chunk": chunk}


@pytest.mark.parametrize("page", RUN_HERE)
def test_the_blocks_of_a_page_run(page: str, scope: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        exec(compile(block, page, "exec"), scope)  # noqa: S102 - it is ours
        for name in ("index", "store"):
            if hasattr(made := scope.pop(name, None), "close"):
                made.close()
    printed = capsys.readouterr().out
    expected = {
        "choosing.md": "0.5 32",
        "deleting.md": "['ben']",
        "how-it-works.md": "travel#0 0.9 True",
        "migration.md": "Dana Whitfield approves trips above 500 euros.",
        "own-files.md": "travel.md lines 1-3",
        "swap.md": "Dana Whitfield does.",
    }
    assert expected.get(page, "") in printed


def test_every_page_with_python_is_run_by_a_test() -> None:
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert {page for page in pages if blocks(page)} == {*RUN_HERE, *RUN_ELSEWHERE}
    for page, test in RUN_ELSEWHERE.items():
        assert page in (ROOT / test).read_text(encoding="utf-8")


def test_both_programs_of_a_swap_differ_in_the_lines_of_the_index() -> None:
    for before, after in (blocks("swap.md")[:2], blocks("swap.md")[2:]):
        kept = set(before.splitlines()) & set(after.splitlines())
        gone, come = (
            [line for line in text.splitlines() if line not in kept and "import" not in line]
            for text in (before, after)
        )
        assert [line.partition(" = ")[0] for line in (*gone, *come)] in (["index"] * 2, ["store"] * 2)
