"""The `ingest` command tells of each file, and citations tell where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from memrecall_kv.cli import main
from memrecall_kv.config import ChunkingConfig, MemRecallConfig
from memrecall_kv.ingest import place_of, read_documents
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory


def load(*_: object, **__: object) -> Any:
    config = MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=64))
    gate = ScriptedGate(lambda question, memory, block: 0.9)
    return tiny_memory(config, gate=gate, reasoner=ScriptedReasoner({}, lambda *_: "Dana approves trips."))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments], load)
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "papers"
    (root / "drafts").mkdir(parents=True)
    (root / "travel.csv").write_text("who,what\nDana,approves trips\n", encoding="utf-8")
    (root / "drafts" / "new.txt").write_text("Draft.", encoding="utf-8")
    (root / "old.txt").write_bytes("Le café du théâtre est fermé jusqu’à l’été.".encode("cp1252"))
    (root / "photo.png").write_bytes(b"\x89PNG")
    return root


def test_each_file_is_told_and_nothing_failed(run: Any, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("charset_normalizer")
    code, out, err = run("ingest", tmp_path / "a.bank", folder, "--exclude", "drafts")
    assert (code, "Error" in err) == (0, False)
    assert out.splitlines()[1:] == [
        "  skipped  drafts (excluded)",
        "  read     old.txt (encoding guessed: cp1252)",
        "  skipped  photo.png (an image)",
        "  read     travel.csv",
        "Files: 2 read, 2 skipped, 0 failed.",
    ]


def test_a_failed_file_is_told_last_and_by_the_exit_code(run: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.docx").write_bytes(b"PK\x03\x04")
    command = ["ingest", tmp_path / "a.bank", folder, "--include", "*.docx", "--include", "*.csv"]
    code, out, err = run(*command, "--json")
    told = json.loads(out)
    assert code == 2
    assert [(row["id"], row["outcome"]) for row in told["files"]] == [
        ("bad.docx", "failed"),
        ("drafts/new.txt", "skipped"),
        ("old.txt", "skipped"),
        ("photo.png", "skipped"),
        ("travel.csv", "read"),
    ]
    assert told["report"]["documents_added"] == 1
    assert told["problems"] == [told["files"][0]["reason"]]
    assert "bad.docx" in err
    assert run(*command)[1].splitlines()[-1] == "Files: 1 read, 3 skipped, 1 failed."


def test_many_skipped_files_are_summed_up(run: Any, folder: Path, tmp_path: Path) -> None:
    for number in range(60):
        (folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
    _, out, _ = run("ingest", tmp_path / "a.bank", folder)
    assert out.count("(an image)") == 51
    assert "  skipped  11 more (an image); --json lists all" in out


def test_a_file_larger_than_the_option_allows_fails(run: Any, folder: Path, tmp_path: Path) -> None:
    code, _, err = run("ingest", tmp_path / "a.bank", folder, "--max-file-bytes", "20")
    assert code == 2
    assert "travel.csv: expected at most 20 bytes, got more." in err


def test_citations_say_where(run: Any, folder: Path, tmp_path: Path) -> None:
    run("ingest", tmp_path / "a.bank", folder / "travel.csv")
    for command in ("ask", "recall"):
        assert "travel.csv characters 0-29 (relevance 0.90), rows 1-2" in run(command, tmp_path / "a.bank", "Who?")[1]


def test_the_place_of_a_recall_comes_from_its_metadata(folder: Path, tmp_path: Path) -> None:
    memory = load()
    with memory.open_bank(tmp_path / "a.bank") as bank:
        memory.ingest(bank, read_documents([folder / "travel.csv"]))
        (recall,) = memory.recall(bank, "Who?")
    start = recall.chunk.start + recall.text.index("Dana")
    assert place_of(recall.metadata, start, start + 4) == "row 2"
