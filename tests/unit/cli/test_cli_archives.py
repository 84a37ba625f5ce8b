import json

import pytest


@pytest.mark.parametrize("command", ["export", "import"])
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: memrecall-kv {command}" in " ".join(out.split())


def test_a_bank_goes_to_a_file_and_comes_back(run, bank, tmp_path):
    file, copy = tmp_path / "handbook.zip", tmp_path / "copy.bank"
    code, out, _ = run("export", bank, file)
    assert (code, out) == (0, f"{file.stat().st_size:,} bytes written to {file}.\n")
    code, out, _ = run("import", file, copy)
    assert (code, out) == (0, f"2 documents and 2 blocks are in {copy}.\n")
    assert run("verify", copy)[:2] == (0, "All 2 blocks are whole.\n")
    code, out, err = run("export", bank, file)
    assert (code, out) == (2, "")
    assert "already something" in err
    file.write_bytes(b"nothing")
    code, out, err = run("import", file, tmp_path / "third.bank", "--json")
    assert (code, out) == (2, "")
    assert "no whole exported bank" in err
    assert not (tmp_path / "third.bank").exists()


def test_what_was_deferred_is_compressed_when_it_is_asked_for(run, handbook, tmp_path):
    path = tmp_path / "deferred.bank"
    code, out, _ = run("ingest", path, handbook, "--defer")
    assert code == 0
    assert "2 left for the first question" in out
    stats = json.loads(run("inspect", path, "--json")[1])["stats"]
    assert (stats["blocks"], stats["chunks_deferred"]) == (0, 2)
    code, out, err = run("ask", path, "Who approves trips?")
    assert (code, "Dana" in out) == (0, True), err
    stats = json.loads(run("inspect", path, "--json")[1])["stats"]
    assert stats["blocks"] + stats["chunks_deferred"] == 2
    assert stats["blocks"] > 0
    assert run("recall", path, "Who approves trips?")[0] == 0
