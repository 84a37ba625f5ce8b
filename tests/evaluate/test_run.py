import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from evaluation_settings import SETTINGS
from memrecall_kv.errors import FingerprintMismatchError, InputError
from memrecall_kv.evaluate.environment import environment, forget_peak, peak_memory
from memrecall_kv.evaluate.ledger import ROWS, Ledger
from memrecall_kv.evaluate.run import RUN, Run
from memrecall_kv.evaluate.settings import RunConfig
from memrecall_kv.testing import tiny_backbone, tiny_memory

SYSTEMS = ("memrecall", "bm25:k=1")


def config(**changes):
    settings = {"tasks": ("ruler-hqa",), "systems": SYSTEMS, "lengths": ((10, 3),)}
    return RunConfig(**{**settings, **changes})


def rows(ledger, kind="answer"):
    return [row for row in ledger if row["kind"] == kind]


def replies(ledger):
    return {row["key"]: (row["reply"], row["evidence"], row["judged"]) for row in rows(ledger)}


class Interrupting:
    """Stops a run after some answers, as a user does."""

    def __init__(self, after):
        self.left = after

    def __call__(self, what, done):
        self.left -= done
        if self.left == 0:
            raise KeyboardInterrupt


def test_there_is_a_row_for_every_system_and_question(data, opened, tmp_path):
    ledger = Run(tmp_path, opened, data, config()).run()
    assert len(rows(ledger)) == 6
    assert {row["system"] for row in rows(ledger)} == set(SYSTEMS)
    row = rows(ledger)[0]
    assert row["answers"]
    assert row["seconds"] > 0
    assert row["device"] == "cpu"
    assert row["tokens_read"] > 0
    assert set(row["scores"]) == {"em", "f1", "sub_em", "loose_sub_em"}
    assert row["evidence"]["recall@20"] in (0.0, 0.5, 1.0)
    assert sum(gold for _, gold in row["judged"]) == 2
    prepared = rows(ledger, "prepare")
    assert len(prepared) == 6
    assert all(row["source_tokens"] > 300 and row["bytes_on_disk"] > 0 for row in prepared)


def test_same_seed_same_questions_and_same_bank_same_answers(data, opened, tmp_path):
    one, again = (Run(tmp_path / name, opened, data, config(), banks=tmp_path / "banks").run() for name in "ab")
    assert replies(one) == replies(again)
    ours = [row["reused"] for row in rows(again, "prepare") if row["system"] == "memrecall"]
    assert ours == [True] * 3
    other = Run(tmp_path / "c", opened, data, config(seed=1)).run()
    assert replies(other).keys() != replies(one).keys()


def test_contexts_in_one_folder_of_blocks_do_not_see_each_other_and_share_equal_texts(data, opened, tmp_path):
    settings = config(systems=("memrecall", "memrecall-no-gate"), lengths=((20, 3), (10, 3)))
    alone = Run(tmp_path / "alone", opened, data, settings).run()
    kept = Run(tmp_path / "kept", opened, data, settings, banks=tmp_path / "banks").run()
    assert replies(kept) == replies(alone)
    compressed = {name: [row["tokens_read"] for row in rows(run, "prepare")] for name, run in
                  (("alone", alone), ("kept", kept))}  # fmt: skip
    # every paragraph of a shorter context is in the longer one, which came first; the other system asks the same
    assert compressed["kept"][3:] == [0] * 9
    assert sum(compressed["kept"]) < sum(compressed["alone"]) / 3
    assert len(list((tmp_path / "banks").iterdir())) == 1


def test_a_follow_up_is_asked_in_words_that_need_no_turn_before_it(opened, tmp_path):
    settings = config(tasks=("everyday",), systems=("bm25:k=1",), lengths=((1, None),), share=99, kinds=("follow-up",))
    (row,) = rows(Run(tmp_path, opened, None, settings).run())
    assert row["question"] == "travel-handbook:16"
    assert "in Oslo" in row["asked"]
    assert "hotel room" in row["asked"]


def test_an_interrupted_run_goes_on_without_counting_twice(data, opened, tmp_path):
    whole = Run(tmp_path / "whole", opened, data, config(share=2, lengths=((20, 4),))).run()
    settings = config(share=2, lengths=((20, 4),))
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "cut", opened, data, settings, report=Interrupting(3)).run()
    kept = len(rows(Ledger(tmp_path / "cut" / ROWS)))
    assert kept == 3
    resumed = Run(tmp_path / "cut", opened, data, settings).run()
    assert replies(resumed) == replies(whole)
    assert len((tmp_path / "cut" / ROWS).read_text().splitlines()) == len(list(resumed))
    before = (tmp_path / "cut" / ROWS).read_bytes()
    Run(tmp_path / "cut", opened, data, settings).run()
    assert (tmp_path / "cut" / ROWS).read_bytes() == before


def test_a_damaged_last_line_is_dropped_and_measured_again(data, opened, tmp_path):
    whole = replies(Run(tmp_path, opened, data, config()).run())
    path = tmp_path / ROWS
    path.write_bytes(path.read_bytes()[:-25])
    assert len(rows(Ledger(path))) == 5
    assert replies(Run(tmp_path, opened, data, config()).run()) == whole


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / ROWS
    path.write_text('{"key": "a"}\n{"ke\n{"key": "b"}\n')
    with pytest.raises(InputError, match="line 2"):
        Ledger(path)


def test_the_first_of_two_rows_with_a_key_counts(tmp_path):
    ledger = Ledger(tmp_path / ROWS)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.add({"key": str(n % 5), "n": n}), range(50)))
    assert len(ledger) == len((tmp_path / ROWS).read_text().splitlines()) == 5
    ledger.add({"key": "0", "n": 99})
    assert {row["key"]: row["n"] for row in Ledger(tmp_path / ROWS)} == {row["key"]: row["n"] for row in ledger}


def test_a_folder_of_another_run_is_refused(data, opened, tmp_path):
    Run(tmp_path, opened, data, config()).run()
    with pytest.raises(InputError, match="another seed"):
        Run(tmp_path, opened, data, config(seed=1)).run()
    backbone = tiny_backbone(seed=1)
    with pytest.raises(InputError, match="another fingerprint"):
        Run(tmp_path, lambda changed: tiny_memory(changed, backbone=backbone), data, config()).run()


def test_a_run_goes_on_in_another_float_type_and_its_rows_say_so(data, opened, tmp_path):
    Run(tmp_path, opened, data, config(systems=("bm25",))).run()
    backbone = tiny_backbone()
    backbone.model.to(torch.bfloat16)
    rest = config(systems=("bm25", "no-context"))
    ledger = Run(tmp_path, lambda changed: tiny_memory(changed or SETTINGS, backbone=backbone), data, rest).run()
    assert {(row["system"], row["device"]) for row in rows(ledger)} == {("bm25", "cpu"), ("no-context", "cpu bfloat16")}
    record = json.loads((tmp_path / RUN).read_text(encoding="utf-8"))
    assert record["fingerprint"]["dtype"] == "float32"
    assert [machine["device"] for machine in record["machines"]] == ["cpu", "cpu bfloat16"]


def test_kept_banks_of_another_model_are_refused(data, opened, tmp_path):
    Run(tmp_path / "a", opened, data, config(), banks=tmp_path / "banks").run()
    backbone = tiny_backbone(seed=1)

    def other(changed):
        return tiny_memory(changed or opened(None).config, backbone=backbone)

    with pytest.raises(FingerprintMismatchError):
        Run(tmp_path / "b", other, data, config(), banks=tmp_path / "banks").run()


def test_a_failure_is_a_wrong_answer_and_the_run_goes_on(data, tmp_path):
    backbone = tiny_backbone(window=512)
    settings = config(systems=("bm25:k=9,reasoner.max_readback_tokens=100000",))
    ledger = Run(tmp_path, lambda changed: tiny_memory(changed, backbone=backbone), data, settings).run()
    assert len(rows(ledger)) == 3
    for row in rows(ledger):
        assert row["failure"].startswith("ContextOverflowError")
        assert set(row["scores"].values()) == {0.0}


def test_no_question_left_is_an_error(data, opened, tmp_path):
    ledger = Run(tmp_path / "a", opened, data, config(kinds=("bridge",), lengths=((10, None),))).run()
    assert len(rows(ledger)) == 12
    assert {row["type"] for row in rows(ledger)} == {"bridge"}
    with pytest.raises(InputError, match="expected questions, got none of type yes/no"):
        Run(tmp_path / "b", opened, data, config(kinds=("yes/no",))).run()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"tasks": ("nope",)}, "name of a task"), ({"systems": ("nope",)}, "name of a system")],
)
def test_unknown_names_are_told_before_anything_is_loaded(changes, problem, data, tmp_path):
    with pytest.raises(InputError, match=problem):
        Run(tmp_path / "out", None, data, config(**changes))
    assert not (tmp_path / "out").exists()


def test_missing_data_are_told_before_anything_is_loaded(tmp_path):
    with pytest.raises(InputError, match="folder with evaluation data"):
        Run(tmp_path / "out", None, tmp_path / "gone", config())


def test_several_questions_at_the_same_time_get_the_same_answers(data, opened, tmp_path):
    settings = {"share": 4, "lengths": ((20, 4),)}
    alone = Run(tmp_path / "a", opened, data, config(**settings)).run()
    together = Run(tmp_path / "b", opened, data, config(**settings, concurrency=4)).run()
    by_question = [{row["system"] + row["question"]: row["reply"] for row in rows(run)} for run in (alone, together)]
    assert by_question[0] == by_question[1]
    assert [row["questions"] for row in rows(together, "batch")] == [4, 4]


LOOP = "memagent:chunk_tokens=600,memory_tokens=16,answer_tokens=8"


def test_loops_over_different_contexts_run_side_by_side_and_answer_as_alone(data, opened, tmp_path):
    settings = {"systems": (LOOP,), "lengths": ((12, 5),), "share": 1}
    alone = Run(tmp_path / "a", opened, data, config(**settings)).run()
    together = Run(tmp_path / "b", opened, data, config(**settings, concurrency=3)).run()
    counted = ("reply", "tokens_read", "tokens_written")
    by_question = [{row["question"]: [row[name] for name in counted] for row in rows(run)} for run in (alone, together)]
    assert by_question[0] == by_question[1]
    assert len({str(row) for row in by_question[0].values()}) > 1
    assert [row["questions"] for row in rows(together, "batch")] == [3, 2]


def test_asking_more_at_once_than_share_a_context_is_refused(data, opened, tmp_path):
    with pytest.raises(InputError, match="and share is 2"):
        Run(tmp_path, opened, data, config(share=2, concurrency=3)).run()


def test_parts_make_up_the_whole(data, opened, tmp_path):
    whole = Run(tmp_path / "whole", opened, data, config()).run()
    parts = [Run(tmp_path / str(n), opened, data, config(part=(n, 2))).run() for n in (1, 2)]
    assert [len(rows(part)) for part in parts] == [4, 2]
    assert replies(parts[0]) | replies(parts[1]) == replies(whole)


def test_peak_memory_belongs_to_a_process_with_one_cell(data, opened, tmp_path):
    both = Run(tmp_path / "a", opened, data, config()).run()
    assert rows(both, "process") == []
    (row,) = rows(Run(tmp_path / "b", opened, data, config(systems=("bm25",))).run(), "process")
    assert row["peak_bytes"] >= (row["loaded_bytes"] or 0)
    assert row["peak_bytes"] > 50_000_000


def test_the_peak_of_what_came_before_can_be_forgotten():
    held = bytearray(b"x" * 300_000_000)
    before = peak_memory()
    del held
    now = forget_peak()
    if now is None:
        pytest.skip("this system does not let the peak begin anew")
    assert peak_memory() < before - 200_000_000


def test_a_run_says_what_it_was_made_on(data, opened, tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "65536")
    Run(tmp_path, opened, data, config()).run()
    record = json.loads((tmp_path / RUN).read_text())
    assert record["seed"] == 0
    assert record["fingerprint"]["compression_ratio"] == "4"
    (machine,) = record["machines"]
    assert {"cpu", "cores", "threads", "date", "revision", "packages", "python", "device"} <= set(machine)
    assert machine["packages"]["torch"]
    assert machine["cores"] == environment()["cores"]
    assert machine["variables"]["MALLOC_TOP_PAD_"] == "65536"
    assert peak_memory() > 50_000_000
