"""Rooms follow the data: imports of the core run down, and never in a circle. `make rooms` prints them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "rooms.py"))
LAYERS = [frozenset({"top"}), frozenset({"left", "right"}), frozenset({"bottom"})]


def test_imports_run_down_and_never_in_a_circle(capsys: pytest.CaptureFixture[str]) -> None:
    imports = SCRIPT["count_imports"]()
    assert SCRIPT["circles"](imports) == []
    assert SCRIPT["upward"](imports, SCRIPT["layers"]()) == []
    assert SCRIPT["main"]() == 0
    printed = capsys.readouterr().out
    assert f"{len(imports)} arrows" in printed
    assert "0 cycles, 0 upward arrows" in printed


def test_what_is_counted_is_there() -> None:
    imports, rooms = SCRIPT["count_imports"](), SCRIPT["rooms"]()
    assert {"backbone", "bank", "recall", "hosts", "pipeline", "types"} <= set(rooms)
    assert imports["pipeline", "recall"] > 0
    assert ("recall", "pipeline") not in imports
    layered = {name for layer in SCRIPT["layers"]() for name in layer}
    assert layered == set(rooms) - SCRIPT["OUTSIDE"]


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ([("top", "left"), ("left", "bottom")], []),
        ([("top", "left"), ("left", "top")], [["left", "top"]]),
        ([("top", "left"), ("left", "bottom"), ("bottom", "top")], [["bottom", "left", "top"]]),
        ([("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "c")], [["a", "b"], ["c", "d"]]),
    ],
)
def test_a_circle_is_found(arrows: list[tuple[str, str]], expected: list[list[str]]) -> None:
    assert SCRIPT["circles"](arrows) == expected


def test_an_arrow_up_or_to_the_side_is_found() -> None:
    arrows = [("top", "bottom"), ("left", "right"), ("bottom", "top"), ("__main__", "top")]
    assert SCRIPT["upward"](arrows, LAYERS) == [("bottom", "top"), ("left", "right")]


def test_floors_are_counted_from_the_ground() -> None:
    assert SCRIPT["floors"]([("top", "left"), ("left", "bottom"), ("top", "right")]) == {
        "bottom": 0,
        "right": 0,
        "left": 1,
        "top": 2,
    }
