import runpy
from pathlib import Path

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
