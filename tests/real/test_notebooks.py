"""The notebooks run from top to bottom with the default model, and show what their text says."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def run(name, capsys):
    """Return what each code cell prints."""
    cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    scope, printed = {}, []
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]), name, "exec"), scope)  # noqa: S102 - it is ours
            printed.append(capsys.readouterr().out)
    return printed


def test_the_swap_answers_refuses_and_forgets(capsys):
    *_, answered, refused, forgotten = run("swap.ipynb", capsys)
    assert answered.startswith("Smiljan\n")
    assert " tesla Nikola Tesla was born" in answered
    assert refused == "Not found in the documents.\n"
    assert "tesla" not in forgotten


def test_a_recall_is_shown_step_by_step(capsys):
    ingested, asked, evidence, cost, refused, two = run("inspect-a-recall.ipynb", capsys)
    assert "documents_added=4" in ingested
    assert "Dana Whitfield" in asked.splitlines()[0]
    assert "travel#0" in asked
    assert " opened " in asked
    assert "travel (0, 53) Trips above the limit" in evidence
    assert "blocks_total=4" in cost
    assert refused.startswith("False 0.")
    assert two.count("'") == 4


def test_a_gate_that_was_trained_finds_what_the_packaged_one_did_not(capsys):
    shown, _, before, steps, after, answered = run("train-your-own-gate.ipynb", capsys)
    assert shown.splitlines()[1].startswith("Blue desk: the archive opens at")
    found = [int(printed.removesuffix(" of 4\n")) for printed in (before, after)]
    assert found[1] >= found[0] + 2
    assert steps == "0 to 30\n"
    assert answered.splitlines()[1] == "Blue desk: the pool opens at 8 o'clock."


def test_every_notebook_is_run():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == {
        "swap.ipynb",
        "inspect-a-recall.ipynb",
        "train-your-own-gate.ipynb",
    }
