import json

import pytest
from evaluation_settings import SETTINGS
from memrecall_kv.cli import main
from memrecall_kv.testing import tiny_backbone, tiny_memory


class Loader:
    """Loads a tiny pipeline; may be told to be interrupted."""

    def __init__(self, seed=0, stop_after=None):
        self.calls = 0
        self._backbone = tiny_backbone(seed=seed)

    def __call__(self, name_or_path, *, config, device, dtype):
        self.calls += 1
        settings = (config or SETTINGS).model_dump()
        # what the packaged settings load was trained for another backbone
        settings["gate"]["kind"], settings["reasoner"]["kind"] = "likelihood", "zero_shot"
        return tiny_memory(type(SETTINGS)(**settings), backbone=self._backbone)


@pytest.fixture
def run(capsys):
    def call(*arguments, load=None):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments], load or Loader())
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


NEEDLES = ("--task", "niah-single", "--documents", "4:2", "--system", "bm25:k=1")


@pytest.mark.parametrize("command", ["eval", "bench"])
def test_help_has_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: memrecall-kv {command}" in " ".join(out.split())
    assert "--json" in out


def test_eval_prints_tables_and_leaves_rows_summary_and_page(run, tmp_path):
    code, out, _ = run("eval", *NEEDLES, "--system", "memrecall", "--out", tmp_path)
    assert code == 0
    assert "| bm25:k=1 | niah-single | 4 | 2 | " in out
    assert "| memrecall | niah-single | 4 | 2 | " in out
    assert "## Against bm25:k=1" in out
    assert (tmp_path / "summary.md").read_text() in out
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 8


def test_eval_with_json_prints_the_summary(run, data, tmp_path):
    code, out, err = run(
        "eval", "--task", "ruler-hqa", "--task", "musique-unanswerable", "--documents", "8", "--documents", "12:3",
        "--questions", "2", "--data", data, "--out", tmp_path, "--order", "reversed", "--system", "bm25", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    sizes = [(cell["task"], cell["documents"], cell["questions"], cell["order"]) for cell in summary["cells"]]
    assert sizes == [
        ("ruler-hqa", 8, 2, "reversed"), ("ruler-hqa", 12, 3, "reversed"),
        ("musique-unanswerable", 8, 2, "reversed"), ("musique-unanswerable", 12, 3, "reversed"),
    ]  # fmt: skip


def test_the_same_command_goes_on_after_an_interruption(run, tmp_path, monkeypatch):
    from memrecall_kv.evaluate.systems import retrieval

    answered = []
    answer = retrieval.Retrieval.answer

    def interrupted(self, question):
        if len(answered) == 1:
            raise KeyboardInterrupt
        answered.append(question)
        return answer(self, question)

    monkeypatch.setattr(retrieval.Retrieval, "answer", interrupted)
    code, _, err = run("eval", *NEEDLES, "--out", tmp_path)
    assert code == 130
    assert "What was done is kept; the same command resumes." in err
    monkeypatch.setattr(retrieval.Retrieval, "answer", answer)
    code, out, _ = run("eval", *NEEDLES, "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["cells"][0]["questions"] == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--task", "nope", "--documents", "4"), "name of a task, got 'nope'"),
        (("--task", "niah-single", "--documents", "4", "--system", "nope"), "name of a system, got 'nope'"),
        (("--task", "niah-single", "--documents", "many"), "NUMBER:QUESTIONS, got 'many'"),
        (("--task", "niah-single", "--documents", "4:0"), "NUMBER:QUESTIONS, got '4:0'"),
        (("--task", "ruler-hqa", "--documents", "4"), "folder with evaluation data, got none"),
        (("--task", "ruler-hqa", "--documents", "4", "--data", "gone"), "folder with evaluation data, got gone"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(run, tmp_path, arguments, problem):
    load = Loader()
    code, out, err = run("eval", *arguments, "--out", tmp_path / "out", load=load)
    assert (code, out, load.calls) == (2, "", 0)
    assert problem in err
    assert not (tmp_path / "out").exists()


def test_mistakes_that_show_later_are_told_with_their_remedy(run, data, tmp_path):
    code, _, err = run("eval", *NEEDLES, "--out", tmp_path, "--kind", "nope")
    assert (code, "expected questions, got none of type nope" in err) == (2, True)
    code, _, err = run("eval", *NEEDLES, "--out", tmp_path / "a", "--against", "nope")
    assert (code, "a system of the run, got 'nope'" in err) == (2, True)
    ours = ("eval", "--task", "niah-single", "--documents", "4:1", "--banks", tmp_path / "banks")
    assert run(*ours, "--out", tmp_path / "b")[0] == 0
    code, _, err = run(*ours, "--out", tmp_path / "c", load=Loader(seed=1))
    assert (code, "was made with another" in err or "backbone" in err) == (2, True)


def test_bench_measures_each_system_in_a_process_of_its_own(run, tmp_path):
    backbone = tiny_backbone()
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    command = (
        "bench", "--task", "niah-single", "--documents", "4", "--questions", "2", "--share", "2", "--concurrency", "1",
        "--system", "memrecall", "--system", "bm25", "--model", tmp_path / "model", "--dtype", "float32",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    code, out, err = run(*command)
    assert code == 0, err
    ours, words = json.loads(out)["cells"]
    assert ours["peak_bytes"] > 50_000_000
    assert words["peak_bytes"] > 50_000_000
    assert ours["cold_seconds"] > ours["prepare_seconds"] > 0
    assert ours["warm_seconds"] > 0
    assert ours["bytes_on_disk"] > words["bytes_on_disk"]
    (pair,) = json.loads(out)["pairs"]
    assert pair["warm_speedup"] > 0
    again = run(*command)
    assert json.loads(again[1])["cells"] == [ours, words]
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["machines"]) == 2
    assert run(*command, "--seed", "1", "--documents", "5")[0] == 2  # of the process: the folder has another seed


def test_bench_tells_mistakes_before_a_process_is_started(run, tmp_path):
    code, _, err = run("bench", "--task", "niah-single", "--documents", "4", "--out", tmp_path, "--system", "nope")
    assert (code, "name of a system, got 'nope'" in err) == (2, True)
    assert not list(tmp_path.iterdir())
