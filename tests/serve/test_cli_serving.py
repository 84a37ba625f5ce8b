"""The commands `serve` and `key`: what they refuse before anything listens, and what they print."""

import json
import logging
import socket
import sys

import pytest
from memrecall_kv.cli.serving import log_in_json
from memrecall_kv.serve.keys import KeyFile


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workers", "2"], "one writer"),
        (["--host", "0.0.0.0"], "memrecall-kv key"),  # noqa: S104
        (["--host", "0.0.0.0", "--api-key-file", "{folder}/none.json"], "Expected keys"),  # noqa: S104
        (["--api-key-file", "{folder}/limits.json"], "expected a file of keys"),
        (["--limits", "{folder}/limits.json"], "colour"),
        (["--limits", "{folder}/none.json"], "none.json"),
        (["--read-only"], "a.bank"),
        (["--read-only", "--workers", "2"], "a.bank"),
        (["{folder}/b/a.bank"], "Rename a directory"),
    ],
)
def test_what_cannot_be_served_is_told_before_anything_listens(run, tmp_path, arguments, told):
    (tmp_path / "limits.json").write_text('{"colour": "red"}', encoding="utf-8")
    (tmp_path / "b").mkdir()
    code, _, err = run("serve", tmp_path / "a.bank", *(each.format(folder=tmp_path) for each in arguments))
    assert code == 2
    assert told in err
    assert socket.socket.__name__ != "socket"  # which nobody tried to open: it would have failed otherwise


def test_without_the_extra_the_command_says_what_to_install(run, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("memrecall_kv.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = run("serve", tmp_path / "a.bank")
    assert code == 2
    assert 'pip install "memrecall-kv[serve]"' in err


def test_keys_are_made_and_revoked(run, tmp_path):
    file = tmp_path / "keys.json"
    code, key, _ = run("key", file, "ann", "--bank", "a")
    assert (code, KeyFile(file).caller(key.strip()).banks) == (0, {"a"})
    made = json.loads(run("key", file, "bob", "--json")[1])
    assert (made["name"], KeyFile(file).caller(made["key"]).banks) == ("bob", None)
    assert run("key", file, "ann")[0] == 2
    assert run("key", file, "ann", "--revoke")[1] == "Revoked ann.\n"
    assert KeyFile(file).caller(key.strip()) is None
    assert run("key", file, "ann", "--revoke")[0] == 2


@pytest.fixture
def own_logging():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


@pytest.mark.usefixtures("own_logging")
def test_an_error_in_the_log_says_where_and_not_what(capsys):
    log_in_json()
    logger = logging.getLogger("memrecall_kv.test")
    try:
        raise ValueError("a text of somebody's")
    except ValueError:
        logger.exception("It failed")
    logger.info("request", extra={"fields": {"status": 200}})
    failed, told = map(json.loads, capsys.readouterr().err.splitlines())
    assert (failed["error"], failed["message"], failed["level"]) == ("ValueError", "It failed", "ERROR")
    assert any("test_cli_serving.py" in place for place in failed["at"])
    assert "somebody" not in str(failed)
    assert told["status"] == 200
