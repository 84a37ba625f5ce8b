"""What a shard behind a URL holds: its files, each under a name that says what is in it.

A shard is a folder of objects that are never written twice. The manifest is the last one sent, and until it is there
nothing of the others counts: the manifest of the highest number that is whole says which ones do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.segment import segment_number

_NAME = re.compile(r"manifest-([0-9]{8})\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FORMAT = 1


@dataclass(frozen=True, slots=True, order=True)
class StoredFile:
    """A file of a bank.

    Attributes:
        name: In the bank's directory.
        digest: SHA-256 of its bytes, in hexadecimal digits.
    """

    name: str
    digest: str

    @property
    def object(self) -> str:
        """Return the name of the object that holds it."""
        return f"{self.name}.{self.digest}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one state of a shard.

    Attributes:
        number: States are counted from 1.
        files: By name.
    """

    number: int
    files: tuple[StoredFile, ...]

    @classmethod
    def of(cls, folder: Path, number: int) -> Self:
        """Return that of a bank's directory, without locks and what SQLite leaves beside; all of it is read."""
        names = (each.name for each in folder.iterdir() if is_content(each.name))
        return cls(number, tuple(StoredFile(name, digest_of(folder / name)) for name in sorted(names)))

    @classmethod
    def parsed(cls, name: str, text: bytes) -> Self | None:
        """Return what an object of this name says; `None` if it is not whole, or leads outside of a bank."""
        number = manifest_number(name)
        try:
            said = json.loads(text)
            files = tuple(sorted(StoredFile(**each) for each in said["files"])) if said["format"] == _FORMAT else ()
            is_whole = all(is_content(each.name) and _DIGEST.fullmatch(each.digest) for each in files)
        except (ValueError, TypeError, KeyError):
            return None
        names = [each.name for each in files]
        if number is None or not is_whole or CATALOGUE not in names or len({*names}) < len(names):
            return None
        return cls(number, files)

    @property
    def object(self) -> str:
        """Return the name of the object that holds it."""
        return f"manifest-{self.number:08}.json"

    @property
    def objects(self) -> frozenset[str]:
        """Return the names of the objects that count, this one included."""
        return frozenset({self.object, *(each.object for each in self.files)})

    def text(self) -> bytes:
        """Return it as it is stored."""
        return json.dumps({"format": _FORMAT, "files": [asdict(each) for each in self.files]}, indent=1).encode()


def manifest_number(name: str) -> int | None:
    """Return the number of the manifest that an object is; `None` if it is none."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def is_stored(name: str) -> bool:
    """Return whether an object has a name as they are given here."""
    file, _, digest = name.rpartition(".")
    return manifest_number(name) is not None or (is_content(file) and _DIGEST.fullmatch(digest) is not None)


def newest_first(names: Iterable[str]) -> list[str]:
    """Return the names of manifests among others, the one that counts first."""
    return sorted((name for name in names if manifest_number(name) is not None), reverse=True)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_content(name: str) -> bool:
    """Return whether a bank's file is part of what it holds, unlike locks and what SQLite leaves beside."""
    return name == CATALOGUE or segment_number(name) is not None
