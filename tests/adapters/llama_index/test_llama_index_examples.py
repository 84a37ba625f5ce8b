import re
import runpy
from pathlib import Path

import pytest
from llama_index.core import Settings

EXAMPLES = Path(__file__).parents[3] / "examples"


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
    page = (EXAMPLES.parent / "docs" / "llama-index.md").read_text(encoding="utf-8")
    (diff,) = re.findall(r"```diff\n(.*?)```", page, re.S)
    source = (EXAMPLES / "llama_index_swap.py").read_text(encoding="utf-8")
    code = {" ".join(line.replace("return", "").replace("index =", "").split()) for line in source.splitlines()}
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and "import" not in line]
    assert [line[0] for line in changed] == ["-", "+"]
    for line in diff.splitlines():
        assert " ".join(line[1:].replace("index =", "").split()) in code or "import" in line


@pytest.mark.real
def test_the_stock_program_and_the_changed_one_answer_from_a_real_book(capsys):
    kept = dict(vars(Settings))
    try:
        runpy.run_path(str(EXAMPLES / "llama_index_swap.py"))["main"]()
    finally:
        vars(Settings).update(kept)
    out = capsys.readouterr().out
    rag, memory = out.split("memory: ")
    assert rag.startswith("rag: ")
    assert "watch" in memory.splitlines()[0]
    for answer in (rag, memory):
        assert sum(line.startswith("  0.") for line in answer.splitlines()) == 3
