"""Functions stay short; files and classes are reported, by `make sizes`, and as long as they need to be."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "sizes.py"))
MOST_LINES = 60


def test_no_function_is_longer_than_a_reader_can_follow() -> None:
    functions = [size for size in SCRIPT["sizes"]() if size.kind == "function"]
    assert len(functions) > 500
    assert [f"{size.where}: {size.lines}" for size in functions if size.lines > MOST_LINES] == []


def test_a_long_function_is_found_wherever_it_stands() -> None:
    body = "\n".join(["        pass"] * 60)
    text = f"class Outer:\n    @property\n    async def long(self):\n{body}\n    def short(self): ...\n"
    found = {(size.kind, size.lines, size.where) for size in SCRIPT["sizes_in"](text, "a.py")}
    assert found == {("class", 64, "a.py:1 Outer"), ("function", 61, "a.py:3 long"), ("function", 1, "a.py:64 short")}


def test_the_report_names_the_longest_of_each_kind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sizes.py", "1"])
    assert SCRIPT["main"]() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" of kind ")[1].split(",")[0] for line in lines[::2]] == ["file", "class", "function"]
    assert all(int(line.split()[0]) > MOST_LINES // 2 for line in lines[1::2])
