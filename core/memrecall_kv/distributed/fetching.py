"""Shards from behind a URL, copied to a directory where they are opened, and brought up to date there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from memrecall_kv.bank.shards import shard_name
from memrecall_kv.distributed.manifest import Manifest
from memrecall_kv.distributed.storage import ShardStorage
from memrecall_kv.errors import BankFormatError, InputError

_RECORD = "fetched.json"
"""Says in a directory which URL it is a copy of, and which manifest of each shard."""


def fetch_shards(url: str, path: str | Path) -> Path:
    """Copy a bank's shards from behind a URL into a directory, to be opened by `MemRecall.open_bank`.

    Every file is compared with what was sent. The same call again fetches only what has changed there.

    Args:
        url: As it was given to `ingest_ray`.
        path: An empty directory or a new one; or one that holds an earlier copy, which nobody has open.

    Returns:
        The directory.

    Raises:
        BankError: If they cannot be fetched, or a file is not what was sent.
        BankFormatError: If a shard is missing, or the earlier copy was changed.
        InputError: If the directory holds anything else.
        MissingDependencyError: If fsspec, or what it needs for such a URL, is not installed.
    """
    storage, folder = ShardStorage(url), Path(path)
    if "://" not in url:
        raise InputError(f"Expected a URL, got {url!r}.", "A bank that is here needs no fetching: open it.")
    known = _known(folder, url)
    count = storage.count()
    if count is None:
        raise BankFormatError(f"There are no shards in {url}.", "Give the URL that they were ingested to.")
    folder.mkdir(parents=True, exist_ok=True)
    _note(folder, url, known)
    for number in range(count):
        name = shard_name(number, count)
        known[name] = _brought_up_to_date(storage, folder, name, known.get(name))
        _note(folder, url, known)
    return folder


def _brought_up_to_date(storage: ShardStorage, folder: Path, name: str, known: Manifest | None) -> Manifest:
    """Fetch a shard, unless it is here as it is there; return what it holds."""
    place, new, old = folder / name, folder / f".new-{name}", folder / f".old-{name}"
    now, here = storage.manifest(name), Manifest.of(place, 0).files if place.is_dir() else None
    if now is not None and now.files == here:
        return now
    if here is not None and (known is None or known.files != here):
        raise BankFormatError(f"{place} is not as it was fetched.", "Fetch all to a new directory; this one is kept.")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    fetched = storage.fetch(name, new, None if here is None else place)
    if fetched is None:
        raise BankFormatError(
            f"{storage.path} has no {name}.", "Ingest again to the same URL, which adds what is missing."
        )
    if here is not None:
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    return fetched


def _known(folder: Path, url: str) -> dict[str, Manifest]:
    """Return what an earlier call has fetched.

    Raises:
        InputError: If the directory holds anything else.
    """
    record = folder / _RECORD
    try:
        said = json.loads(record.read_bytes())
        its_url, shards = said["url"], {name: json.dumps(its).encode() for name, its in said["shards"].items()}
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"Expected an empty or a new directory, got {folder}.", "Fetch it to another place."
            ) from None
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"Expected a copy of {url}, {record} is not whole: {error}.", "Fetch to a new one.") from error
    if its_url != url:
        raise InputError(f"Expected a copy of {url}, {folder} is one of {its_url}.", "Give another directory.")
    found = {name: Manifest.parsed(Manifest(0, ()).object, its) for name, its in shards.items()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def _note(folder: Path, url: str, known: dict[str, Manifest]) -> None:
    shards = {name: json.loads(manifest.text()) for name, manifest in known.items()}
    new = folder / f".new-{_RECORD}"
    new.write_text(json.dumps({"url": url, "shards": shards}), encoding="utf-8")
    os.replace(new, folder / _RECORD)
