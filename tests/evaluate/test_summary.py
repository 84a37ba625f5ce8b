import pytest
from memrecall_kv.errors import MissingDependencyError
from memrecall_kv.evaluate.measures import plots
from memrecall_kv.evaluate.measures.summary import break_even, summarize
from memrecall_kv.evaluate.measures.tables import markdown, overview

RECORD = {
    "seed": 7,
    "machines": [
        {
            "cpu": "Some CPU", "cores": 2, "threads": 1, "device": "cpu", "python": "3.11", "revision": "abc",
            "date": "2026-01-02", "packages": {"torch": "2.13", "numpy": None},
        }
    ],
}  # fmt: skip


def answer(system, question, score, documents=50, *, failure="", seconds=2.0, first=True, answers=("x",), found=True):
    return {
        "kind": "answer", "system": system, "task": "t", "documents": documents, "order": "own", "share": 1,
        "concurrency": 1, "context": question, "question": question, "answers": list(answers), "gold": 1,
        "found": found, "failure": failure, "scores": dict.fromkeys(("em", "f1", "sub_em", "loose_sub_em"), score),
        "evidence": {} if failure else {"recall@2": score, "hop_order": None}, "judged": [[0.9, True], [0.2, False]],
        "tokens_read": 100, "tokens_written": 10, "blocks_scored": 3, "first": first, "seconds": seconds,
    }  # fmt: skip


def prepared(system, seconds, documents=50, size=1000, *, reused=False):
    return {
        "kind": "prepare", "system": system, "task": "t", "documents": documents, "order": "own", "share": 1,
        "concurrency": 1, "context": "c", "seconds": seconds, "source_tokens": documents * 100,
        "bytes_on_disk": size, "tokens_read": 0, "reused": reused,
    }  # fmt: skip


def process(system, peak, documents=50):
    return {
        "kind": "process", "system": system, "task": "t", "documents": documents, "order": "own", "share": 1,
        "concurrency": 1, "peak_bytes": peak, "loaded_bytes": 50, "loading_peak_bytes": 900,
    }  # fmt: skip


def rows():
    quick = [answer("ours", f"q{n}", float(n < 8), seconds=3.0 if n == 0 else 1.0, first=n == 0) for n in range(10)]
    slow = [answer("loop", f"q{n}", float(n < 2), seconds=50.0, first=n == 0) for n in range(10)]
    long = [answer("ours", f"q{n}", float(n < 5), 500) for n in range(5, 10)]
    others = [prepared("ours", 490.0), prepared("loop", 0.0, size=0), prepared("ours", 9.0, 500)]
    peaks = [process("ours", 100), process("loop", 400), process("ours", 110, 500)]
    return [*quick, *slow, *long, *others, *peaks]


def cell(summary, system, documents=50):
    return next(one for one in summary["cells"] if (one["system"], one["documents"]) == (system, documents))


def test_means_come_with_their_intervals_and_their_number():
    ours = cell(summarize(rows()), "ours")
    assert (ours["questions"], ours["failures"], ours["tokens"]) == (10, 0, 5000)
    assert ours["sub_em"]["mean"] == pytest.approx(0.8)
    assert ours["sub_em"]["low"] < 0.8 < ours["sub_em"]["high"]
    assert ours["evidence"].keys() == {"recall@2"}


def test_failures_count_0_except_in_the_published_measure():
    failed = [answer("ours", "q1", 1.0), answer("ours", "q2", 0.0, failure="ContextOverflowError: ...", found=False)]
    ours = cell(summarize(failed), "ours")
    assert (ours["questions"], ours["failures"]) == (2, 1)
    assert ours["sub_em"]["mean"] == 0.5
    assert ours["loose_sub_em"] == {"mean": 1.0, "questions": 1}
    assert ours["evidence"]["recall@2"]["mean"] == 0.5
    assert ours["abstained"]["answerable"] == 0.0


def test_refusals_are_told_apart():
    asked = [
        answer("ours", "q1", 1.0, answers=(), found=False),
        answer("ours", "q2", 0.0, answers=(), found=True),
        answer("ours", "q3", 1.0),
    ]
    assert cell(summarize(asked), "ours")["abstained"] == {"answerable": 0.0, "unanswerable": 0.5}


def test_cold_warm_and_amortised_seconds():
    ours = cell(summarize(rows()), "ours")
    assert (ours["prepare_seconds"], ours["cold_seconds"], ours["warm_seconds"]) == (490.0, 493.0, 1.0)
    assert ours["amortised_seconds"] == {"1": 491.0, "10": 50.0, "100": 5.9}
    assert ours["bytes_per_token"] == 0.2


def test_blocks_that_were_there_before_say_nothing_about_seconds_and_bytes():
    ours = cell(summarize([answer("ours", "q1", 1.0), prepared("ours", 0.1, reused=True)]), "ours")
    assert ours["cold_seconds"] is None
    assert ours["bytes_on_disk"] is None


def test_seconds_are_of_one_device_and_answers_of_all():
    there = [answer("ours", f"g{n}", 1.0, seconds=0.1, first=False) | {"device": "cuda:0"} for n in range(10)]
    here = summarize([*there, *rows()])["cells"][0]
    assert (here["questions"], here["warm_seconds"], here["device"]) == (20, 1.0, "cpu")
    assert here["devices"] == ["cuda:0", "cpu"]
    (alone,) = summarize(there)["cells"]
    assert (alone["warm_seconds"], alone["device"]) == (pytest.approx(0.1), "cuda:0")


def test_two_devices_are_compared_by_their_answers_alone():
    moved = [row | {"device": "cpu float32"} if row["system"] == "loop" else row for row in rows()]
    (pair,) = summarize(moved, against="loop")["pairs"]
    assert pair["sub_em"] == summarize(rows(), against="loop")["pairs"][0]["sub_em"]
    ratios = ("cold_speedup", "warm_speedup", "memory_share", "break_even_questions")
    assert [pair[name] for name in ratios] == [None] * 4


def test_ratios_and_the_question_from_which_preparing_pays():
    (pair,) = summarize(rows(), against="loop")["pairs"]
    assert pair["system"] == "ours"
    assert pair["warm_speedup"] == 50.0
    assert pair["cold_speedup"] == pytest.approx(50 / 493)
    assert pair["memory_share"] == 0.25
    assert pair["break_even_questions"] == pytest.approx(10.0)
    assert pair["sub_em"]["mean"] == pytest.approx(0.6)
    assert pair["verdict"] == "better"


def test_a_handful_of_questions_decides_nothing():
    few = [answer(system, f"q{n}", float(system == "ours")) for system in ("ours", "loop") for n in range(9)]
    assert [pair["verdict"] for pair in summarize(few)["pairs"]] == ["too few questions"]


def test_where_we_lose_the_table_says_so():
    summary = summarize(rows(), against="ours")
    assert [pair["verdict"] for pair in summary["pairs"]] == ["worse"]
    lines = markdown(summary, RECORD).splitlines()
    assert any("| loop | t | 50 |" in line and "| worse |" in line for line in lines)


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ((0, 1), (5, 2), 0),
        ((10, 1), (0, 2), 10),
        ((1, 1), (0, 3), 1),
        ((10, 2), (0, 2), None),
        ((0, 3), (9, 2), None),
        ((1, 1), (None, 2), None),
    ],
)
def test_break_even(mine, theirs, expected):
    names = ("prepare_seconds", "warm_seconds")
    assert break_even(dict(zip(names, mine, strict=True)), dict(zip(names, theirs, strict=True))) == expected


def test_lengths_are_paired_on_the_questions_asked_at_both():
    (row,) = summarize(rows())["lengths"]
    assert (row["system"], row["shortest"], row["documents"]) == ("ours", 50, 500)
    assert row["sub_em"]["questions"] == 5
    assert row["sub_em"]["mean"] == pytest.approx(-0.6)
    assert row["memory_growth"] == pytest.approx(1.1)


def test_the_gate_is_told_by_cell():
    gate = summarize(rows())["gates"][0]
    assert gate["blocks"] == 20
    assert gate["calibration_error"] == pytest.approx(0.15)
    assert gate["precision_recall"][0] == (0.9, 1.0, 1.0)


def test_the_page_has_the_machine_and_a_line_for_every_cell():
    summary = summarize(rows())
    page = markdown(summary, RECORD)
    assert page.startswith("Some CPU, 2 cores, 1 threads, cpu; Python 3.11, torch 2.13; revision abc, seed 7")
    for title in (
        "t, sub-EM by length",
        "Answers",
        "Evidence",
        "Cost",
        "Against ours",
        "Against the shortest length",
        "Gate",
    ):
        assert f"## {title}" in page
    assert "| ours | t | 50 | 10 | 80.0 [" in page
    widths = {line.count("|") for line in page.partition("## Answers")[2].partition("## ")[0].splitlines() if line}
    assert len(widths) == 1


def test_the_overview_has_a_line_for_every_system_and_a_column_for_every_length():
    head, _, *lines = overview(summarize(rows()), "t").splitlines()
    assert head == "| system | 50 documents (5K tokens) | 500 documents (50K tokens) |"
    ours, loop = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert (ours[0], loop[0], loop[2]) == ("ours", "loop", "")
    assert ours[1].startswith("80.0 [")
    assert ours[1].endswith(", n = 10")
    assert ours[2].endswith(", n = 5")
    assert overview(summarize(rows()), "other").splitlines() == ["| system |", "| --- |"]


def test_an_empty_run_has_an_empty_summary():
    assert summarize([]) == {"against": None, "cells": [], "pairs": [], "lengths": [], "gates": []}


def test_pictures_are_drawn_of_what_there_is(tmp_path):
    pytest.importorskip("matplotlib")
    written = plots.draw(summarize(rows()), tmp_path)
    assert {path.stem for path in written} == set(plots._PICTURES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    few = [row for row in rows() if row["kind"] != "process"]
    assert "memory_by_length" not in {path.stem for path in plots.draw(summarize(few), tmp_path)}


def test_a_picture_has_six_lines_over_the_most_lengths_and_no_cell_of_few_questions():
    asked = [answer(f"s{n}", f"q{m}", 1.0, documents) for n in range(9) for documents in (50, 500) for m in range(16)]
    more = [answer("s8", f"q{m}", 1.0, 5000) for m in range(16)] + [answer("s0", "q0", 1.0, 5000)]
    sizes = [prepared(f"s{n}", 1.0, documents) for n in range(9) for documents in (50, 500, 5000)]
    cells = summarize([*asked, *more, *sizes])["cells"]
    lines = {label: [cell["documents"] for cell in line] for label, line, _ in plots._lines(cells, "sub_em")}
    assert lines == {**{f"s{n}": [50, 500] for n in range(5)}, "s8": [50, 500, 5000]}
    few = [cell for cell in cells if cell["questions"] == 1]
    assert [label for label, _, _ in plots._lines(few, "sub_em")] == ["s0"]


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"memrecall-kv\[eval\]"):
        plots.draw(summarize(rows()), tmp_path)
