"""Help on one page, narrow terminals, pipes, plain logs, and mistakes that are told without a traceback."""

import io
import subprocess
import sys

import pytest
from memrecall_kv.cli import app, show
from memrecall_kv.errors import InputError

COMMANDS = "demo ingest sync ask recall inspect delete verify compact train eval bench".split()


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_the_terminal_and_one_page(run, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run(*([] if command is None else [command]), "--help")
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    widest = min(columns, 80) + 4 * (command == "train" and columns == 40)  # typer lists the stages beside their name
    assert [line for line in lines if len(line) > widest] == []
    if columns > 40:
        assert len(lines) <= (60 if command in {"eval", "bench"} else 40)


def test_help_names_every_command_an_example_and_the_exit_codes(run):
    _, out, _ = run("--help")
    assert [line.split()[0] for line in out.splitlines() if line[2:].split(" ")[0] in COMMANDS] == COMMANDS
    assert 'memrecall-kv ask my.bank "Who pays?"' in out
    assert "130  interrupted" in out
    assert "..." not in out.split("Commands:")[1]


def test_a_pipe_gets_whole_lines(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    folder = tmp_path / "deep" / ("long " * 20).strip() / ("name " * 20).strip()
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("Text.", encoding="utf-8")
    run("ingest", tmp_path / "b.bank", tmp_path / "deep")
    _, out, _ = run("inspect", tmp_path / "b.bank")
    assert f"{folder.relative_to(tmp_path / 'deep').as_posix()}/a.txt" in out


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("value", "coloured"), [(None, True), ("", True), ("1", False)])
def test_no_color_is_followed(monkeypatch, value, coloured):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    show.complain(InputError("Wrong.", "Do right."))
    assert ("\x1b[" in screen.getvalue()) is coloured
    assert "Error:" in screen.getvalue()


def test_progress_in_a_log_is_lines_of_text(capsys, monkeypatch):
    monkeypatch.setattr(show, "_LOG_SECONDS", 0.0)
    with show.bar(hidden=False) as progress:
        progress("compress", 1000, 2000)
    with show.bar(hidden=True) as progress:
        progress("compress", 1500, 2000)
    assert capsys.readouterr().err == "compressing: 1,000 of 2,000 tokens\n"


def test_mistakes_are_told_in_words(run, bank, handbook, tmp_path):
    file, folder = handbook / "lunch.txt", tmp_path / "none"
    folder.mkdir()
    mistakes = [
        ["inspect", file],
        ["verify", folder],
        ["compact", tmp_path / "gone"],
        ["delete", bank, "\udcff"],
        ["ask", bank, ""],
        ["recall", bank, "  "],
        ["ask", bank, "Who?", "--config", folder],
        ["ingest", file, handbook],
        ["ingest", bank, handbook, "--encoding", "nope"],
        ["ingest", handbook, handbook],
        ["sync", handbook, file],
        ["sync", file, bank],
        ["sync", bank, handbook],
        ["sync", folder, bank, "--interval", "0"],
        ["sync", handbook],
        ["demo", "--bank", file],
        ["ask", bank, "Who?", "--compressor", "nope"],
    ]
    for mistake in mistakes:
        code, out, err = run(*mistake)
        assert (code, out) == (2, ""), mistake
        assert "Error" in err, mistake
        assert "Traceback" not in err, mistake


def test_a_question_in_other_bytes_is_asked_all_the_same(run, bank):
    code, out, _ = run("ask", bank, "Who appro\udcff?")
    assert code == 0
    assert "blocks opened" in out


def test_ctrl_c_while_the_program_starts_is_one_line(run, monkeypatch):
    def interrupted(arguments, load):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)
    code, out, err = run("inspect", "b")
    assert (code, out, err.strip()) == (130, "", "Interrupted.")


def test_a_reader_that_stops_reading_is_no_crash(bank):
    code = "import sys\nfrom memrecall_kv.cli import main\nmain(['inspect', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(bank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (1, "")
