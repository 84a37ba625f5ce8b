"""Ray's workers make of documents what one process makes of them, also when one of them is killed."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from memrecall_kv.bank.shards import shard_name, shard_of
from memrecall_kv.distributed import ingest_ray
from memrecall_kv.distributed.ray_ingest import by_shard
from memrecall_kv.distributed.shard_writer import from_row
from memrecall_kv.errors import BankFormatError, InputError
from memrecall_kv.types import Document
from shard_samples import QUESTION, SHARDS, contents, load, load_mortal, texts

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1", "localhost"]),
    # Ray sets what it calls deprecated, and leaves files and sockets to be closed at the end
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def memory():
    return load()


@pytest.fixture(scope="module")
def one(memory, tmp_path_factory) -> Path:
    """One bank, filled by one process: shard after shard, and inside each by id, which is the order of shards."""
    path = tmp_path_factory.mktemp("one") / "bank"
    with memory.open_bank(path) as bank:
        for rows in by_shard(texts(), SHARDS):
            memory.ingest(bank, sorted(map(from_row, rows), key=lambda document: document.id))
    return path


def asked(memory, path: Path) -> tuple:
    with memory.open_bank(path, read_only=True) as bank:
        answer = memory.ask(bank, QUESTION)
        return bank.ids(), answer.text, answer.evidence, answer.trace


def test_two_workers_make_what_one_process_makes(ray, memory, one: Path, tmp_path: Path) -> None:
    report = ingest_ray(texts(), tmp_path / "all", shards=SHARDS, load=load, workers=2)
    assert (report.documents_added, report.documents_unchanged) == (60, 0)
    assert contents(tmp_path / "all") == contents(one)
    assert asked(memory, tmp_path / "all") == asked(memory, one)
    # a dataset of the same documents is the same again, and one more is one more
    rows = [{"text": d.text, "id": d.id, "metadata": d.metadata} for d in [*texts(), Document("new", "A new ship.")]]
    report = ingest_ray(ray.data.from_items(rows), tmp_path / "all", shards=SHARDS, load=load, workers=1)
    assert (report.documents_added, report.documents_unchanged, report.chunks_compressed) == (1, 60, 1)
    with memory.open_bank(tmp_path / "all" / shard_name(shard_of("new", SHARDS), SHARDS), read_only=True) as bank:
        assert bank.document("new").text == "A new ship."


def test_a_killed_worker_changes_nothing(ray, memory, one: Path, tmp_path: Path) -> None:
    flag = tmp_path / "kill one"
    flag.touch()
    ingest_ray(texts(), tmp_path / "all", shards=SHARDS, load=partial(load_mortal, flag), workers=2)
    assert not flag.exists()
    assert contents(tmp_path / "all") == contents(one)
    assert asked(memory, tmp_path / "all") == asked(memory, one)


def test_a_failure_is_the_librarys_own_and_the_other_shards_are_whole(ray, memory, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / shard_name(0, SHARDS)).write_text("a file")
    with pytest.raises(BankFormatError, match="is a file"):
        ingest_ray(texts(), folder, shards=SHARDS, load=load, workers=1)
    (folder / shard_name(0, SHARDS)).unlink()
    report = ingest_ray(texts(), folder, shards=SHARDS, load=load, workers=1)
    assert report.documents_unchanged == len(by_shard(texts(), SHARDS)[1])
    with pytest.raises(InputError, match=r"Expected shards=2, as .* has, got 3"):
        ingest_ray(texts(), folder, shards=3, load=load)


def test_the_blocks_of_sharding_md_run(ray, memory, tmp_path: Path, monkeypatch, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sharding.md").read_text(encoding="utf-8")
    scope = {"memory": memory, "load": load, "url": f"file://{tmp_path}/sent"}
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M):
        exec(compile(block, "sharding.md", "exec"), scope)  # noqa: S102 - it is ours
    printed = capsys.readouterr().out
    assert "Open " in printed
    assert "b.bank to write: document 'b.bank' belongs there." in printed
    assert "['lunch', 'travel']" in printed
    assert contents(tmp_path / "fetched.shards") == contents(tmp_path / "handbook.shards")
