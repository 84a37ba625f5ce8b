"""Where the shards of a bank are kept: in a directory, or behind a URL that fsspec knows."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.segment import segment_number
from memrecall_kv.bank.shards import shard_count, shard_name
from memrecall_kv.errors import BankError, BankFormatError, InputError, MissingDependencyError


class ShardStorage:
    """The shards in a directory, which are written where they are, or behind a URL, which are written as a whole.

    A bank cannot be changed on an object store. There a shard is fetched, changed, and sent back: its segments first,
    and its catalogue, which says what counts of them, when they are there. One process at a time may do so.

    Args:
        path: A directory, or a URL such as `s3://bucket/handbook.shards`.

    Raises:
        MissingDependencyError: If fsspec, or what it needs for such a URL, is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._folder = None if "://" in self.path else Path(path).absolute()
        self._files: Any = None
        self._root = ""
        if self._folder is None:
            self._files, self._root = _file_system(self.path)

    def count(self) -> int | None:
        """Return of how many shards a bank is that is there, whole or not; `None` if there is none.

        Raises:
            BankFormatError: If there are shards of several banks, or a bank without shards.
        """
        if self._folder is None:
            names = self._names(self._root)
        else:
            names = [each.name for each in self._folder.iterdir()] if self._folder.is_dir() else []
        if CATALOGUE in names:
            raise BankFormatError(f"{self.path} is a bank without shards.", "Give an empty or a new place.")
        return shard_count(names, self.path)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give the directory to write a shard in; it is kept when the block ends without an error.

        Raises:
            BankError: If it cannot be fetched or sent.
        """
        if self._folder is not None:
            yield self._folder / name
            return
        with tempfile.TemporaryDirectory(prefix="memrecall-shard-") as folder:
            place = Path(folder) / name
            self.fetch(name, place)
            yield place
            self._send(name, place)

    def fetch(self, name: str, place: Path) -> bool:
        """Copy a shard from behind a URL to a directory that is not there yet; return whether there was one.

        Raises:
            BankError: If it cannot be fetched.
        """
        source = f"{self._root}/{name}"
        files = self._names(source)
        if CATALOGUE not in files:  # what was sent before its catalogue does not count
            return False
        place.mkdir(parents=True)
        with self._translated(f"fetch {source}"):
            for file in files:
                self._files.get_file(f"{source}/{file}", str(place / file))
        return True

    def _send(self, name: str, place: Path) -> None:
        target = f"{self._root}/{name}"
        files = sorted((each.name for each in place.iterdir() if _is_content(each.name)), key=CATALOGUE.__eq__)
        with self._translated(f"send {target}"):
            self._files.makedirs(target, exist_ok=True)
            for file in files:
                self._files.put_file(str(place / file), f"{target}/{file}")
            for file in set(self._names(target)) - set(files):
                self._files.rm_file(f"{target}/{file}")

    def _names(self, place: str) -> list[str]:
        """Return the names of what lies right below a place; none of them can lead elsewhere."""
        with self._translated(f"look into {place}"):
            # another process, such as one that has just ended, may have changed what is remembered here
            self._files.invalidate_cache()
            if not self._files.isdir(place):
                return []
            found = (PurePosixPath(str(each)).name for each in self._files.ls(place, detail=False))
            return [name for name in found if _is_content(name) or name.startswith("shard-")]

    @contextmanager
    def _translated(self, task: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BankError(
                f"Could not {task} of {self.path}: {error}.",
                "Try again when it can be reached; nothing that was there is lost.",
            ) from error


def fetch_shards(url: str, path: str | Path) -> Path:
    """Copy a bank's shards from behind a URL into a directory, to be opened by `MemRecall.open_bank`.

    Args:
        url: As it was given to `ingest_ray`.
        path: An empty directory or a new one.

    Returns:
        The directory.

    Raises:
        BankError: If they cannot be fetched.
        BankFormatError: If a shard is missing.
        InputError: If the directory holds anything.
        MissingDependencyError: If fsspec, or what it needs for such a URL, is not installed.
    """
    storage, folder = ShardStorage(url), Path(path)
    if "://" not in url:
        raise InputError(f"Expected a URL, got {url!r}.", "A bank that is here needs no fetching: open it.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"Expected an empty or a new directory, got {folder}.", "Fetch it to another place.")
    count = storage.count()
    if count is None:
        raise BankFormatError(f"There are no shards in {url}.", "Give the URL that they were ingested to.")
    for number in range(count):
        name = shard_name(number, count)
        if not storage.fetch(name, folder / name):
            raise BankFormatError(f"{url} has no {name}.", "Ingest again to the same URL, which adds what is missing.")
    return folder


def _is_content(name: str) -> bool:
    """Return whether a bank's file is part of what it holds, unlike locks and what SQLite leaves beside."""
    return name == CATALOGUE or segment_number(name) is not None


def _file_system(url: str) -> tuple[Any, str]:
    try:
        fsspec = importlib.import_module("fsspec")
        files, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(
            f"{url} needs a package that is not installed: {error}.", 'Run: pip install "memrecall-kv[ray]"'
        ) from error
    except ValueError as error:
        raise InputError(
            f"Expected a URL that fsspec knows, got {url!r}: {error}.", "Give a directory or another URL."
        ) from error
    return files, str(root).rstrip("/")
