"""Shards on an object store: S3, as moto answers it on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partialmethod
from pathlib import Path

import pytest
import s3fs
from memrecall_kv.bank.shards import shard_name
from memrecall_kv.distributed import fetch_shards
from memrecall_kv.distributed.ray_ingest import by_shard
from memrecall_kv.distributed.shard_writer import ShardWriter, from_row
from memrecall_kv.errors import BankError, BankFormatError, InputError
from moto.server import ThreadedMotoServer
from shard_samples import SHARDS, contents, load, texts

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1", "localhost"]),
    # connections of s3fs end with its process, and moto's server with that of the tests
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(boto|moto|aiobotocore|dateutil).*"),
]

URL = "s3://shelf/handbook.shards"
CHANGES = ("_put_file", "_pipe_file", "_rm_file")


@pytest.fixture(scope="module")
def memory():
    return load()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """An empty bucket `shelf`, which whoever asks fsspec finds by the environment."""
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("shelf")
    yield files
    files.invalidate_cache()
    files.rm("shelf", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


class Killed(Exception):  # noqa: N818 - no error of anybody
    """What a process that is killed does next: nothing."""


def write(memory, url, documents) -> list:
    writer = ShardWriter(lambda: memory, url, SHARDS)
    return [writer.write(number, map(from_row, rows)) for number, rows in enumerate(by_shard(documents, SHARDS))]


@contextmanager
def changed(**methods) -> Iterator[None]:
    """Let s3fs do something else; what is open keeps the methods that it was made with, so all is opened anew."""
    with pytest.MonkeyPatch.context() as patch:
        for name, method in methods.items():
            patch.setattr(s3fs.S3FileSystem, name, method)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def killed_at(number: int) -> Iterator[list]:
    """Let the given change of the store be the one that is not made; give those that were tried."""
    tried: list[object] = []

    async def counted(self, change, *given, **more):
        tried.append(given)
        if len(tried) == number:
            raise Killed
        return await change(self, *given, **more)

    with changed(**{name: partialmethod(counted, getattr(s3fs.S3FileSystem, name)) for name in CHANGES}):
        yield tried


def test_shards_on_s3_are_those_of_a_directory_and_added_to_once(store, memory, tmp_path: Path) -> None:
    write(memory, URL, texts(12))
    (tmp_path / "here").mkdir()
    write(memory, tmp_path / "here", texts(12))
    copy = fetch_shards(URL, tmp_path / "copy")
    assert contents(copy) == contents(tmp_path / "here")
    before = set(store.find("shelf", refresh=True))
    assert sum(report.documents_added for report in write(memory, URL, texts(12))) == 0
    assert set(store.find("shelf", refresh=True)) == before
    reports = write(memory, URL, texts(15))
    assert sum(report.documents_added for report in reports) == 3
    write(memory, tmp_path / "here", texts(15))
    # the copy is brought up to date, and is what is there
    assert fetch_shards(URL, copy) == copy
    assert contents(copy) == contents(tmp_path / "here")
    with memory.open_bank(copy, read_only=True) as bank:
        assert len(bank.ids()) == 15


def test_an_upload_killed_at_any_point_shows_nothing_half_and_is_done_once(store, memory, tmp_path: Path) -> None:
    write(memory, URL, texts(4))
    before = contents(fetch_shards(URL, tmp_path / "before"))
    store.cp("shelf/handbook.shards", "shelf/kept", recursive=True)
    seen, number, reached = [], 0, True
    while reached:
        number += 1
        store.invalidate_cache()
        store.rm("shelf/handbook.shards", recursive=True)
        store.cp("shelf/kept", "shelf/handbook.shards", recursive=True)
        with killed_at(number) as tried, suppress(Killed):
            write(memory, URL, texts(7))
        reached = len(tried) >= number
        half = contents(fetch_shards(URL, tmp_path / f"half {number}"))
        seen.append(len(half))
        assert before.items() <= half.items()
        write(memory, URL, texts(7))
        after = contents(fetch_shards(URL, tmp_path / f"after {number}"))
        assert half.items() <= after.items()
        left = store.find("shelf/handbook.shards", refresh=True)
        assert len(left) == SHARDS * 3, left  # a catalogue, a segment and a manifest each: nothing is left over
    assert len({*after}) == seen[-1] > seen[0] == len(before)
    assert seen == sorted(seen)
    assert len({*seen}) == 3  # each shard is there at once


def test_a_process_that_is_killed_while_it_sends_changes_nothing(store, memory, tmp_path: Path) -> None:
    write(memory, URL, texts(4))
    program = """
import os, signal, sys
import s3fs
from test_object_store import URL, CHANGES, write
from shard_samples import load, texts
async def die(self, *given, **more):
    os.kill(os.getpid(), signal.SIGKILL)
s3fs.S3FileSystem._pipe_file = die
write(load(), URL, texts(7))
"""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(store.find("shelf", refresh=True)) > SHARDS * 3
    (tmp_path / "here").mkdir()
    write(memory, tmp_path / "here", texts(4))
    assert contents(fetch_shards(URL, tmp_path / "copy")) == contents(tmp_path / "here")
    write(memory, URL, texts(7))
    write(memory, tmp_path / "here", texts(7))
    assert contents(fetch_shards(URL, tmp_path / "copy")) == contents(tmp_path / "here")


def test_what_was_sent_is_known_by_its_bytes(store, memory, tmp_path: Path) -> None:
    write(memory, URL, texts(7))
    copy = fetch_shards(URL, tmp_path / "copy")
    name = shard_name(0, SHARDS)
    (segment,) = (each for each in store.find(f"shelf/handbook.shards/{name}", refresh=True) if ".kvs." in each)
    store.pipe_file(segment, store.cat_file(segment)[:-1] + b"!")
    fetch_shards(URL, copy)  # it is here already, as it was sent
    with pytest.raises(BankError, match="does not hold what was sent"):
        fetch_shards(URL, tmp_path / "new")
    store.rm_file(segment)
    with pytest.raises(BankError, match=rf"{name} lacks seg-"):
        fetch_shards(URL, tmp_path / "other")
    # what was written into a copy is not taken away
    with memory.open_bank(copy / name) as bank:
        bank.delete(bank.ids()[0])
    with pytest.raises(BankFormatError, match="not as it was fetched"):
        fetch_shards(URL, copy)
    with pytest.raises(InputError, match=r"copy of s3://shelf/other, .* is one of s3://shelf/handbook\.shards"):
        fetch_shards("s3://shelf/other", copy)


def test_a_fetch_begins_anew_if_the_shard_is_replaced_meanwhile(store, memory, tmp_path: Path) -> None:
    write(memory, URL, texts(7))
    get_file, fetched = s3fs.S3FileSystem._get_file, []

    async def replaced(self, source, *given, **more):
        await get_file(self, source, *given, **more)
        if not fetched:
            fetched.append(source)
            await asyncio.to_thread(write, memory, URL, texts(12))

    with changed(_get_file=replaced):
        found = contents(fetch_shards(URL, tmp_path / "copy"))
    assert len({chunk_id.rpartition("#")[0] for chunk_id in found}) == 12


def test_missing_credentials_permissions_and_buckets_are_told(
    store, memory, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BankError, match=r"Could not send .*bucket does not exist"):
        write(memory, "s3://nowhere/handbook.shards", texts(2))
    with pytest.raises(BankFormatError, match="no shards in s3://nowhere"):
        fetch_shards("s3://nowhere/handbook.shards", tmp_path / "copy")
    with pytest.raises(InputError, match="got the URL 's3://"):
        memory.open_bank(URL, read_only=True)

    async def denied(self, *given, **more):
        raise PermissionError("Access Denied")

    with changed(_put_file=denied), pytest.raises(BankError, match=r"not allowed to send .*Access Denied") as told:
        write(memory, URL, texts(2))
    assert "credentials" in told.value.hint
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(BankError, match="Unable to locate credentials") as told:
        fetch_shards(URL, tmp_path / "copy")
    assert "AWS_ACCESS_KEY_ID" in told.value.hint
    assert not (tmp_path / "copy").exists()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3fs.S3FileSystem.clear_instance_cache()
