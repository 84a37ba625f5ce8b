"""Shards in a directory and behind a URL, and what a worker writes, without any workers."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.shards import shard_name, shard_of
from memrecall_kv.distributed import fetch_shards
from memrecall_kv.distributed.ray_ingest import by_shard
from memrecall_kv.distributed.shard_writer import ShardWriter, from_row, identified, raised, to_row
from memrecall_kv.distributed.storage import ShardStorage
from memrecall_kv.errors import BankError, BankFormatError, InputError, MissingDependencyError
from memrecall_kv.types import Document, Heading
from shard_samples import QUESTION, SHARDS, contents, load, texts

URL = "memory://shelf/handbook.shards"


@pytest.fixture(scope="module")
def memory():
    return load()


@pytest.fixture(autouse=True)
def _empty_store():
    """Begin with nothing behind the URL, which is one place for this whole process."""
    files = fsspec.filesystem("memory")
    if files.exists("/shelf"):
        files.rm("/shelf", recursive=True)


def write(memory, path, documents, shards: int = SHARDS) -> list:
    writer = ShardWriter(lambda: memory, path, shards)
    return [writer.write(number, map(from_row, rows)) for number, rows in enumerate(by_shard(documents, shards))]


def test_shards_behind_a_url_are_those_of_a_directory(memory, tmp_path: Path) -> None:
    write(memory, tmp_path / "here", texts())
    write(memory, URL, texts())
    fetched = fetch_shards(URL, tmp_path / "fetched")
    assert contents(fetched) == contents(tmp_path / "here")
    with (
        memory.open_bank(fetched, read_only=True) as there,
        memory.open_bank(tmp_path / "here", read_only=True) as here,
    ):
        assert there.ids() == here.ids()
        assert [r.chunk.id for r in memory.recall(there, QUESTION)] == [
            r.chunk.id for r in memory.recall(here, QUESTION)
        ]


def test_writing_again_behind_a_url_adds_and_nothing_twice(memory, tmp_path: Path) -> None:
    first = write(memory, URL, texts(20))
    again = write(memory, URL, texts(30))
    assert sum(report.documents_added for report in first) == 20
    assert sum(report.documents_unchanged for report in again) == 20
    assert sum(report.documents_added for report in again) == 10
    write(memory, tmp_path / "here", texts(20))
    write(memory, tmp_path / "here", texts(30))
    assert contents(fetch_shards(URL, tmp_path / "fetched")) == contents(tmp_path / "here")


def test_what_was_not_sent_whole_does_not_count(memory, tmp_path: Path) -> None:
    write(memory, URL, texts(20))
    files = fsspec.filesystem("memory")
    name = shard_name(1, SHARDS)
    (manifest,) = files.glob(f"/shelf/handbook.shards/{name}/manifest-*.json")
    files.rm(manifest)
    with pytest.raises(BankFormatError, match=f"has no {name}"):
        fetch_shards(URL, tmp_path / "half")
    write(memory, URL, texts(20))
    assert len(contents(fetch_shards(URL, tmp_path / "whole"))) == len(contents_of_new(memory, tmp_path, 20))


def contents_of_new(memory, folder: Path, count: int) -> dict:
    write(memory, folder / "new", texts(count))
    return contents(folder / "new")


def test_an_error_behind_a_url_leaves_what_was_there(memory, tmp_path: Path) -> None:
    write(memory, URL, texts(20))
    storage = ShardStorage(URL)
    with pytest.raises(BankError, match="disk"), storage.writing(shard_name(0, SHARDS)) as folder:
        (folder / CATALOGUE).unlink()
        raise BankError("The disk is gone.", "Look.")
    assert contents(fetch_shards(URL, tmp_path / "fetched")) == contents_of_new(memory, tmp_path, 20)


def test_names_from_behind_a_url_lead_nowhere_else(memory, tmp_path: Path) -> None:
    write(memory, URL, texts(10))
    files = fsspec.filesystem("memory")
    files.pipe(f"/shelf/handbook.shards/{shard_name(0, SHARDS)}/evil.sh", b"rm")
    fetched = fetch_shards(URL, tmp_path / "fetched")
    names = {path.name for path in fetched.rglob("*") if path.is_file()}
    assert "evil.sh" not in names
    assert CATALOGUE in names


def test_what_cannot_be_fetched_says_why(tmp_path: Path) -> None:
    with pytest.raises(BankFormatError, match="no shards in memory://"):
        fetch_shards(URL, tmp_path / "new")
    with pytest.raises(InputError, match="Expected a URL"):
        fetch_shards(str(tmp_path), tmp_path / "new")
    (tmp_path / "file").write_text("x")
    for full in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="empty or a new directory"):
            fetch_shards(URL, full)
    with pytest.raises(InputError, match="fsspec knows"):
        ShardStorage("nowhere://at/all")
    with pytest.raises(MissingDependencyError, match=r"memrecall-kv\[ray\]"):
        ShardStorage("oci://bucket@namespace/key")


def test_a_bank_without_shards_takes_none(memory, tmp_path: Path) -> None:
    memory.open_bank(tmp_path / "bank").close()
    with pytest.raises(BankFormatError, match="bank without shards"):
        ShardStorage(tmp_path / "bank").count()


# -- documents ---------------------------------------------------------------------------------------------


def test_a_document_without_an_id_is_named_by_what_it_holds() -> None:
    one, same, other = (identified(Document("", text, {"b": 1, "a": 2})) for text in ("tea", "tea", "coffee"))
    assert one.id == same.id != other.id
    assert len(one.id) == 64
    assert identified(Document("", "tea", {"a": 2, "b": 1})).id == one.id
    for different in (Document("", "tea"), Document("", "tea", {"b": 1, "a": 2}, Heading("A title"))):
        assert identified(different).id != one.id
    assert identified(Document("mine", "tea")).id == "mine"


@pytest.mark.parametrize(
    "row",
    [
        {"text": "tea", "id": "d", "metadata": {"port": 3}},
        {"text": "tea", "id": "d", "metadata": '{"port": 3}', "judged": None},
    ],
)
def test_a_row_is_a_document(row: dict) -> None:
    assert identified(row) == Document("d", "tea", {"port": 3})
    assert identified({**row, "id": 0}).id == "0"
    assert identified({**row, "read": "Title. "}).heading == Heading("", "Title. ")


@pytest.mark.parametrize("row", [{"body": "tea"}, {"text": 3}, "tea", None, {"text": "tea", "metadata": "{"}])
def test_what_is_no_document_is_refused(row) -> None:
    with pytest.raises(InputError, match="Expected"):
        identified(row)


def test_documents_travel_as_they_are() -> None:
    document = identified(Document("d", "tea \ud800 東京", {"list": [1, None, {"x": "\0"}]}, Heading("A ", "B ")))
    assert from_row(json.loads(json.dumps(to_row(document)))) == document


def test_each_document_belongs_to_one_shard_and_comes_once() -> None:
    rows = by_shard([*texts(), *texts()], 3)
    ids = [row["id"] for its in rows for row in its]
    assert len(ids) == len(set(ids)) == len(texts())
    assert all(shard_of(row["id"], 3) == number for number, its in enumerate(rows) for row in its)
    with pytest.raises(InputError, match="different documents under the id 'd'"):
        by_shard([Document("d", "tea"), Document("d", "coffee")], 3)


def test_an_error_comes_back_from_a_worker_as_it_was(memory, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / shard_name(0, 1)).write_text("a file")
    report = ShardWriter(lambda: memory, tmp_path / "all", 1)._report(0, [to_row(texts()[1])])
    error = raised(report["failure"])
    assert isinstance(error, BankFormatError)
    assert "is a file" in str(error)
    assert error.hint
