import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import Loader
from patience import PATIENCE


def holds(run, bank):
    return [document["id"] for document in json.loads(run("inspect", bank, "--json")[1])["documents"]]


def test_a_plan_comes_first_and_loads_no_model(run, handbook, tmp_path):
    load, bank = Loader(), tmp_path / "new.bank"
    code, out, err = run("sync", handbook, bank, "--dry-run", load=load)
    assert (code, err, load.calls, bank.exists()) == (0, "", [], False)
    assert out.splitlines() == [
        "  add      lunch.txt",
        "  add      travel.md",
        "Documents would be: 2 added, 0 replaced, 0 removed, 0 unchanged; at most 49 characters to compress.",
    ]
    run("sync", handbook, bank)
    (handbook / "lunch.txt").unlink()
    code, out, _ = run("sync", handbook, bank, "--dry-run", "--json", load=load)
    plan = json.loads(out)
    assert (code, load.calls, plan["planned"]) == (0, [], True)
    assert [(change["action"], change["id"]) for change in plan["changes"]] == [
        ("unchanged", "travel.md"),
        ("remove", "lunch.txt"),
    ]
    assert holds(run, bank) == ["lunch.txt", "travel.md"]


def test_a_bank_follows_its_folder_and_an_unchanged_one_loads_no_model(run, handbook, tmp_path):
    load, bank = Loader(), tmp_path / "new.bank"
    code, out, _ = run("sync", handbook, bank)
    assert code == 0
    assert out.splitlines()[-1].startswith("Documents: 2 added, 0 replaced, 0 removed, 0 unchanged; ")
    code, out, _ = run("sync", handbook, bank, load=load)
    assert (code, load.calls) == (0, [])
    assert out.startswith("Documents: 0 added, 0 replaced, 0 removed, 2 unchanged; ")
    (handbook / "lunch.txt").rename(handbook / "noon.txt")
    code, out, _ = run("sync", handbook, bank)
    assert "  remove   lunch.txt (renamed to noon.txt)" in out
    assert "0 tokens compressed" in out
    assert holds(run, bank) == ["travel.md", "noon.txt"]


def test_what_went_wrong_comes_last_and_is_exit_code_2(run, handbook, tmp_path):
    bank = tmp_path / "new.bank"
    run("sync", handbook, bank)
    (handbook / "lunch.txt").write_bytes(b"\0")
    (handbook / "more.txt").write_text("More.", encoding="utf-8")
    code, out, err = run("sync", handbook, bank)
    assert code == 2
    assert "1 added" in out
    assert "1 failed" in out
    assert err.splitlines()[-2].startswith("Error: ")
    assert "lunch.txt" in err
    assert holds(run, bank) == ["lunch.txt", "travel.md", "more.txt"]


def test_a_long_list_is_cut_short_after_a_sync_and_whole_in_a_plan(run, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"Number {number}.", encoding="utf-8")
    _, out, _ = run("sync", folder, tmp_path / "b.bank", "--dry-run")
    assert len(out.splitlines()) == 31
    _, out, _ = run("sync", folder, tmp_path / "b.bank")
    assert out.splitlines()[-2] == "  add      and 10 more"
    assert len(out.splitlines()) == 22


@pytest.mark.parametrize("case", ["missing", "file", "bank"])
def test_what_is_no_folder_is_told_before_a_model_is_loaded(run, bank, tmp_path, case):
    load = Loader()
    place = {"missing": tmp_path / "gone", "file": tmp_path / "handbook" / "lunch.txt", "bank": bank}[case]
    code, out, err = run("sync", place, bank, load=load)
    assert (code, out, load.calls) == (2, "", [])
    assert len(err.splitlines()) == 2


def test_an_empty_folder_keeps_the_bank_as_it_is(run, handbook, tmp_path):
    bank = tmp_path / "new.bank"
    run("sync", handbook, bank)
    for path in handbook.iterdir():
        path.unlink()
    code, out, err = run("sync", handbook, bank)
    assert code == 2
    assert "2 kept" in out
    assert "--remove-all" in err
    code, out, _ = run("sync", handbook, bank, "--remove-all")
    assert (code, holds(run, bank)) == (0, [])


WATCHING = """
import sys
sys.path.insert(0, {samples!r})
from cli_samples import Loader
from memrecall_kv.cli import main
main(["sync", "handbook", "b.bank", "--watch", "--interval", "0.1", "--json"], Loader())
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_watching_goes_on_after_errors_and_ctrl_c_ends_it(handbook, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHING.format(samples=str(Path(__file__).parent))],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def seen():
        report = json.loads(process.stdout.readline())
        return {change["id"]: change["action"] for change in report["changes"]}, report["problems"]

    try:
        assert seen() == ({"lunch.txt": "add", "travel.md": "add"}, [])
        (handbook / "lunch.txt").write_bytes(b"\0")
        (handbook / "new.txt").write_text("New.", encoding="utf-8")
        changes, problems = seen()
        assert changes == {"lunch.txt": "fail", "new.txt": "add", "travel.md": "unchanged"}
        assert len(problems) == 1
        handbook.rename(tmp_path / "elsewhere")
        assert "Its documents stay" in until(process.stderr, "Its documents stay")
        (tmp_path / "elsewhere").rename(handbook)
        assert seen()[0]["new.txt"] == "unchanged"
        (handbook / "new.txt").unlink()
        assert seen()[0]["new.txt"] == "remove"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "Interrupted. What was done is kept; the same command resumes."
    assert "Traceback" not in err


def until(stream, words):
    for line in stream:
        if words in line:
            return line
    return ""
