import io
import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_samples import Loader
from memrecall_kv.cli.session import typed_lines
from memrecall_kv.errors import ContextOverflowError, InputError
from patience import PATIENCE


def piped(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


def test_piped_questions_are_answered_one_by_one_by_a_model_that_is_loaded_once(run, bank, monkeypatch):
    piped(monkeypatch, b"Who approves trips?\n\n  When is lunch?\nexit\nNever asked?\n")
    load = Loader()
    code, out, err = run("ask", bank, load=load)
    assert (code, len(load.calls)) == (0, 1)
    assert re.findall(r"^Q: .*", out, re.M) == ["Q: Who approves trips?", "Q: When is lunch?"]
    assert out.count("\nDana approves trips.\n") == 2
    assert err == ""


def test_a_follow_up_question_is_asked_in_words_of_its_own_and_shown_so(run, bank, monkeypatch):
    piped(monkeypatch, b"Who approves trips?\nWhat else does she decide?\nWhen is lunch?\n")
    _, out, _ = run("ask", bank, load=Loader("Dana"))
    assert re.findall(r"^Asked as: .*", out, re.M) == ["Asked as: What else does Dana decide?"]


def test_a_session_in_json_is_one_object_a_question(run, bank, monkeypatch):
    piped(monkeypatch, b"Who approves trips?\nWhat else does she decide?")
    code, out, err = run("ask", bank, "--json", "--top-k", "1", load=Loader("Dana"))
    assert (code, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert first["question"] == first["asked"] == "Who approves trips?"
    assert (second["question"], second["asked"]) == ("What else does she decide?", "What else does Dana decide?")
    assert second["answer"]["usage"]["blocks_opened"] == 1


def test_what_was_not_found_is_no_name_for_later(run, bank, monkeypatch):
    piped(monkeypatch, b"Who flies?\nWhere does she live?\n")
    code, out, _ = run("ask", bank, load=Loader("none"))
    assert code == 1
    assert "None" not in out


def test_a_question_that_cannot_be_asked_does_not_end_the_session(run, bank, monkeypatch):
    def reply(question):
        if question.startswith("why why"):
            raise ContextOverflowError("Too long.", "Ask a shorter question.")
        return "Dana"

    piped(monkeypatch, b"why " * 5000 + b"?\nWho approves trips?\n\xff\xfe?\n")
    code, out, err = run("ask", bank, load=Loader(reply))
    assert code == 2
    assert out.count("blocks opened") == 2
    assert err.splitlines() == ["Error: Too long.", "Ask a shorter question."]


def test_no_question_at_all_is_a_mistake(run, bank, monkeypatch):
    piped(monkeypatch, b"\n \n")
    code, out, err = run("ask", bank)
    assert (code, out) == (2, "")
    assert "Expected a question, got none." in err


def test_ctrl_c_ends_piped_questions(run, bank, monkeypatch):
    piped(monkeypatch, b"Who approves trips?\nWhen is lunch?\n")

    def reply(question):
        raise KeyboardInterrupt

    code, _, err = run("ask", bank, load=Loader(reply))
    assert code == 130
    assert err.strip() == "Interrupted."


TYPING = """
import sys, time
sys.path.insert(0, {samples!r})
from cli_samples import Loader
from memrecall_kv.cli.session import typed_lines
from memrecall_kv.errors import ContextOverflowError, InputError
from memrecall_kv.cli import main

def reply(question):
    if "slow" in question:
        print("BUSY", file=sys.stderr, flush=True)
        time.sleep(600)
    return "Dana"

main(["ask", {bank!r}, *{options!r}], Loader(reply))
"""


class Terminal:
    """Somebody at a terminal: types and reads what is there."""

    def __init__(self, bank, *options, **places):
        import pty

        self.ours, theirs = pty.openpty()
        code = TYPING.format(samples=str(Path(__file__).parent), bank=str(bank), options=options)
        places = {"stdout": theirs, "stderr": theirs, **places}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
            preexec_fn=_take_terminal,
            **places,
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text):
        os.write(self.ours, text.encode())

    def read_until(self, words):
        start, deadline = len(self.seen), time.monotonic() + PATIENCE
        while words not in self.seen[start:]:
            if not select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {words!r} in {self.seen!r}")
            try:
                got = os.read(self.ours, 4096)
            except OSError:  # the other side is closed
                break
            self.seen += got.decode(errors="replace")
        return self.seen[start:]

    def end(self):
        self.read_until("no such words")
        return self.process.wait(timeout=PATIENCE)


def _take_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_at_a_terminal_keys_do_what_they_do_elsewhere(bank, tmp_path):
    history = tmp_path / "history"
    history.write_text("Who approves trips?\n", encoding="utf-8")
    terminal = Terminal(bank, "--history", str(history))
    assert "holds 2 documents" in terminal.read_until("Q: ")
    terminal.type("\x1b[A\n")  # the arrow brings the question of the last session back
    assert "Dana\r\n" in terminal.read_until("Q: ")
    terminal.type("a slow one?\n")
    terminal.read_until("BUSY")
    terminal.type("\x03")
    assert "Stopped." in terminal.read_until("Q: ")
    terminal.type("half a quest")
    terminal.read_until("half a quest")
    time.sleep(0.5)  # else Python may look for Ctrl-C before it comes, and then wait for a key
    terminal.type("\x03")
    terminal.read_until("Q: ")
    terminal.type("\x1b[A\x1b[A\n")
    assert "Dana\r\n" in terminal.read_until("Q: ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen
    asked = ["Who approves trips?", "Who approves trips?", "a slow one?", "Who approves trips?"]
    assert history.read_text(encoding="utf-8").splitlines() == asked


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_the_prompt_is_not_among_answers_that_go_to_a_file(bank, tmp_path):
    with (tmp_path / "out").open("wb") as out:
        terminal = Terminal(bank, "--json", stdout=out)
        terminal.read_until("Q: ")
        terminal.type("Who approves trips?\n")
        terminal.read_until("Q: ")
        terminal.type("exit\n")
        assert terminal.end() == 0
    (line,) = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["answer"]["text"] == "Dana"


def test_a_history_is_kept_only_if_asked_and_is_nobody_elses(tmp_path, monkeypatch):
    readline = pytest.importorskip("readline")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who?\n"))
    monkeypatch.chdir(tmp_path)
    assert list(typed_lines(None)) == ["Who?\n"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who?\n\nWhen?\n"))
    assert len(list(typed_lines(tmp_path / "kept"))) == 3
    assert (tmp_path / "kept").read_text(encoding="utf-8") == "Who?\nWhen?\n"
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0
    (tmp_path / "kept").write_text("".join(f"{number}\n" for number in range(5000)), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert list(typed_lines(tmp_path / "kept")) == []
    assert (readline.get_current_history_length(), readline.get_history_item(1)) == (1000, "4000")
    with pytest.raises(InputError, match="expected a file for the history"):
        list(typed_lines(tmp_path))
