import re
import runpy
from pathlib import Path

import pytest
from llama_index.core import Settings
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.vector_stores import SimpleVectorStore
from memrecall_kv import MemRecall
from memrecall_kv.hosts import lazy

from llama_index_memrecall import MemRecallIndex

EXAMPLES = Path(__file__).parents[3] / "examples"
PAGE = (EXAMPLES.parent / "docs" / "llama-index.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def run(name, memory, capsys):
    runpy.run_path(str(EXAMPLES / name))["main"](memory)
    return capsys.readouterr().out


def test_asking_prints_an_answer_and_both_sources(memory, capsys):
    out = run("llama_index_ask.py", memory, capsys)
    assert "travel: Trips above the limit are approved by Dana Whitfield." in out
    assert "limits: The finance team sets the travel limit at 800 euros." in out


def test_postprocessing_prints_two_of_three_nodes(memory, capsys):
    out = run("llama_index_postprocess.py", memory, capsys)
    assert len(out.splitlines()) == 2
    assert sum(name in out for name in ("menu:", "travel:", "lift:")) == 2


def test_the_documented_change_is_the_one_line_in_which_the_example_differs():
    (diff,) = re.findall(r"```diff\n(.*?)```", PAGE, re.S)
    source = (EXAMPLES / "llama_index_swap.py").read_text(encoding="utf-8")
    code = {" ".join(line.replace("return", "").replace("index =", "").split()) for line in source.splitlines()}
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and "import" not in line]
    assert [line[0] for line in changed] == ["-", "+"]
    for line in diff.splitlines():
        assert " ".join(line[1:].replace("index =", "").split()) in code or "import" in line


class TextStore(SimpleVectorStore):
    """LlamaIndex's store; a pipeline takes only one that says it keeps text."""

    stores_text: bool = True


@pytest.fixture
def documented(memory, documents, monkeypatch, tmp_path):
    """What the page takes for granted: documents, models of the host's, a default memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lazy, "_load", lambda *_: memory)
    monkeypatch.setattr(MemRecall, "from_pretrained", lambda: memory)
    embedding = MockEmbedding(embed_dim=4)
    monkeypatch.setattr(Settings, "_embed_model", embedding)
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    return {"documents": documents, "embed_model": embedding, "vector_store": TextStore()}


@pytest.fixture
def page(documented):
    """Returns what a block of the page leaves behind, and closes it afterwards."""

    def after(number):
        run_block(BLOCKS[number], documented)
        return documented

    yield after
    for value in documented.values():
        if not isinstance(value, type) and hasattr(value, "close"):
            value.close()


def test_the_index_on_the_page_answers_and_is_stored(page):
    names = page(0)
    assert len(names["response"].source_nodes) == 3
    assert Path("storage/docstore.json").exists()


def test_the_engine_on_the_page_tells_usage_and_trace(page):
    response = page(1)["response"]
    assert len(response.source_nodes) == 3
    assert response.metadata["usage"]["blocks_opened"] == len(response.metadata) == 3
    assert sum(step["opened"] for step in response.metadata["trace"]) == 3


def test_the_postprocessor_on_the_page_keeps_three_of_four(page, documents):
    found = [source.node.ref_doc_id for source in page(2)["response"].source_nodes]
    assert len(set(found)) == 3
    assert set(found) < {document.id_ for document in documents}


def test_the_encoder_on_the_page_forgets_what_its_pipeline_forgets(page):
    names = page(3)
    names["pipeline"].run(documents=names["documents"][1:])
    names["engine"].retriever.top_k = 9
    found = {source.node.ref_doc_id for source in names["engine"].retrieve("Who approves travel?")}
    assert found == {"limits", "lunch", "lift"}


def test_the_memory_block_on_the_page_has_the_bank_it_names(page):
    assert page(4)["memory"].memory_blocks[0].bank == "chats.bank"


def test_the_lines_that_compact_a_bank_take_the_deleted_blocks_bytes_out(documented, memory):
    *others, block = BLOCKS
    assert len(others) == 5  # a block that is added to the page needs a test
    index = MemRecallIndex.from_documents(documented["documents"], bank="handbook.bank", memory=memory)
    index.delete_ref_doc("travel")
    index.close()
    before = bank_bytes()
    run_block(block, documented)
    assert bank_bytes() < before


def bank_bytes():
    return sum(segment.stat().st_size for segment in Path("handbook.bank").glob("*.kvs"))


def run_block(block, names):
    exec(compile(block, "llama-index.md", "exec"), names)  # noqa: S102 - it is ours


@pytest.mark.real
def test_the_stock_program_and_the_changed_one_answer_from_a_real_book(capsys):
    kept = dict(vars(Settings))
    try:
        runpy.run_path(str(EXAMPLES / "llama_index_swap.py"))["main"](characters=8_000)
    finally:
        vars(Settings).update(kept)
    out = capsys.readouterr().out
    rag, memory = out.split("memory: ")
    assert rag.startswith("rag: ")
    assert "watch" in memory.splitlines()[0]
    for answer in (rag, memory):
        assert sum(line.startswith("  0.") for line in answer.splitlines()) == 3
