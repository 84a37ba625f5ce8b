import runpy
from pathlib import Path

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
