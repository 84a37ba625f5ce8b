"""Where the shards of a bank are kept: in a directory, or behind a URL that fsspec knows."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.shards import shard_count
from memrecall_kv.distributed.manifest import Manifest, StoredFile, digest_of, is_stored, newest_first
from memrecall_kv.errors import BankError, BankFormatError, InputError, MissingDependencyError

_TRIES = 3
"""How often a fetch begins anew because the shard was changed meanwhile."""

_FAILURES = {
    "botocore.exceptions": "BotoCoreError",
    "google.auth.exceptions": "GoogleAuthError",
    "gcsfs.retry": "HttpError",
    "azure.core.exceptions": "AzureError",
}
"""Errors of what is below fsspec that are no `OSError`, by their modules; one that is not loaded raised none."""

_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci")
"""Protocols of stores where a folder is a part of a name; to make one would at most make a bucket."""


class ShardStorage:
    """The shards in a directory, which are written where they are, or behind a URL, which are written as a whole.

    A bank cannot be changed on an object store. There a shard is fetched, changed, and sent back: its files under new
    names first, and the manifest, which says what counts of them, when they are there (`manifest.py`). One process at
    a time may do so.

    Args:
        path: A directory, or a URL such as `s3://bucket/handbook.shards`.

    Raises:
        BankError: If the store cannot be reached with what is known of it.
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
            BankError: If one cannot look there.
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

    def manifest(self, name: str) -> Manifest | None:
        """Return what a shard behind a URL holds; `None` if it was never sent whole.

        Raises:
            BankError: If it cannot be read.
        """
        source = f"{self._root}/{name}"
        for each in newest_first(self._names(source)):
            with self._translated(f"read {source}/{each}"):
                found = Manifest.parsed(each, self._files.cat_file(f"{source}/{each}"))
            if found is not None:
                return found
        return None

    def fetch(self, name: str, place: Path, known: Path | None = None) -> Manifest | None:
        """Copy a shard from behind a URL to a directory that is not there yet.

        Args:
            name: The shard's.
            place: The directory.
            known: An earlier copy; what is still the same is not fetched again.

        Returns:
            What it holds; `None` if there is none, and then no directory either.

        Raises:
            BankError: If it cannot be fetched, or is not what its manifest says.
        """
        manifest = self.manifest(name)
        for left in reversed(range(_TRIES)):
            if manifest is None:
                return None
            try:
                self._copy(name, manifest, place, known)
            except _GoneError as error:
                after = self.manifest(name)  # another one was sent meanwhile, and this one's files taken away
                if after == manifest or not left:
                    raise BankError(f"{self.path}: {name} lacks {error}.", "Ingest its documents again.") from error
                manifest = after
            else:
                return manifest
        return None

    def _copy(self, name: str, manifest: Manifest, place: Path, known: Path | None) -> None:
        place.mkdir(parents=True, exist_ok=True)
        for file in manifest.files:
            target, old = place / file.name, None if known is None else known / file.name
            if old is not None and old.is_file() and digest_of(old) == file.digest:
                shutil.copyfile(old, target)
                continue
            source = f"{self._root}/{name}/{file.object}"
            with self._translated(f"fetch {source}"):
                try:
                    self._files.get_file(source, str(target))
                except FileNotFoundError as error:
                    raise _GoneError(file.object) from error
            if digest_of(target) != file.digest:
                raise BankError(
                    f"{source} of {self.path} does not hold what was sent.",
                    "Try again; if it stays so, delete the shard there and ingest its documents again.",
                )
        for each in {each.name for each in place.iterdir()} - {file.name for file in manifest.files}:
            (place / each).unlink()  # of a state that was there when the fetch began

    def _send(self, name: str, place: Path) -> None:
        target, before = f"{self._root}/{name}", self.manifest(name)
        manifest = Manifest.of(place, before.number + 1 if before else 1)
        with self._translated(f"send {target}"):
            if before is not None and before.files == manifest.files:
                manifest = before
            else:
                self._put(manifest, place, target, () if before is None else before.files)
            for each in filter(is_stored, set(self._names(target)) - manifest.objects):
                self._files.rm_file(f"{target}/{each}")  # of earlier states, and what a killed upload left

    def _put(self, manifest: Manifest, place: Path, target: str, known: Sequence[StoredFile]) -> None:
        if not self.path.startswith(tuple(f"{each}://" for each in _WITHOUT_FOLDERS)):
            self._files.makedirs(target, exist_ok=True)
        for file in manifest.files:
            if file not in known:
                self._files.put_file(str(place / file.name), f"{target}/{file.object}")
        self._files.pipe_file(f"{target}/{manifest.object}", manifest.text())

    def _names(self, place: str) -> list[str]:
        """Return the names of what lies right below a place; none of them can lead elsewhere."""
        with self._translated(f"look into {place}"):
            # another process, such as one that has just ended, may have changed what is remembered here
            self._files.invalidate_cache()
            try:
                return [PurePosixPath(str(each)).name for each in self._files.ls(place, detail=False)]
            except FileNotFoundError:
                return []

    @contextmanager
    def _translated(self, task: str) -> Iterator[None]:
        loaded = ((sys.modules.get(module), name) for module, name in _FAILURES.items())
        failures = [getattr(module, name) for module, name in loaded if module is not None]
        hint = "Try again when it can be reached; nothing that was there is lost."
        try:
            yield
        except PermissionError as error:
            hint = "Check the credentials: they must allow to list, read, write and delete there."
            raise BankError(f"It is not allowed to {task} of {self.path}: {error}.", hint) from error
        except (OSError, *failures) as error:
            if isinstance(error, FileNotFoundError):
                hint = "Make the bucket or the directory, if that is the one you mean."
            elif "credential" in f"{type(error).__name__} {error}".lower():
                hint = "Give credentials as the store's own tools read them; for S3, AWS_ACCESS_KEY_ID and its secret."
            raise BankError(f"Could not {task} of {self.path}: {error}.", hint) from error


class _GoneError(Exception):
    """An object that a manifest names is not there."""


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
