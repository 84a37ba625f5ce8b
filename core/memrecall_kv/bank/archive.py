"""A bank as one file: a zip without compression, in which everything has a digest and nothing deleted is left.

`bank.json` names the format and, for every other member, its bytes and SHA-256; the others are `catalogue.sqlite`, a
copy without free pages, and the segments with the blocks in use. Nothing is unpacked by the name a member has: whatever
is not one of these is refused, and what is imported is verified as a bank before it stands where it was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.bank.directory import CATALOGUE, resolved
from memrecall_kv.bank.failures import translated
from memrecall_kv.bank.files import FileLayer
from memrecall_kv.bank.segment import segment_number
from memrecall_kv.errors import BankFormatError, InputError
from memrecall_kv.types import BankStats

_MANIFEST = "bank.json"
_FORMAT = 1
_PIECE = 2**20
_LONGEST_MANIFEST = 2**24
_UNREADABLE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    KeyError,
    MemoryError,
)
"""What Python's reader raises for a file that nobody wrote as a zip."""


@dataclass(frozen=True, slots=True)
class _Member:
    """What the manifest says of a member."""

    size: int
    sha256: str


def export_bank(bank: MemoryBank, file: str | Path) -> int:
    """Write a bank as one file, as it is at one moment, whatever others read and write meanwhile.

    Args:
        bank: Which, open for reading or writing.
        file: Where to; it must not exist, and its folder takes a copy of the bank meanwhile.

    Returns:
        The bytes of the file.

    Raises:
        InputError: If the file exists.
        BankLockedError: If blocks are removed again and again while they are copied.
        BankError: If the bank is damaged or the file cannot be written; there is no file then.
    """
    target, files = resolved(file), FileLayer()
    if os.path.lexists(target):
        raise InputError(f"There is already something at {target}.", "Give the path of a new file.")
    with translated(target.parent), _beside(target) as folder:
        copy, packed = folder / "bank", folder / "packed"
        copy.mkdir()
        bank.copy_to(copy)
        with packed.open("xb") as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
            members = {path.name: _pack(archive, path) for path in sorted(copy.iterdir())}
            stated = {name: {"bytes": member.size, "sha256": member.sha256} for name, member in members.items()}
            archive.writestr(_MANIFEST, json.dumps({"format": _FORMAT, "members": stated}, indent=1))
        files.sync(packed)
        _settle(packed, target, files)
        return target.stat().st_size


def import_bank(file: str | Path, path: str | Path) -> BankStats:
    """Make a bank from a file that `export_bank` wrote, after verifying everything in it.

    The bank gets an id of its own, as every copy does.

    Args:
        file: From whomever; nothing in it is believed.
        path: The new bank's directory; it must not exist, or be empty. After a crash there is none, or the whole bank.

    Returns:
        What the bank holds.

    Raises:
        InputError: If there is something at `path`.
        BankFormatError: If the file is none of ours, or anything in it is damaged.
        BlockCorruptError: If a block or a text is.
        BankError: If the file cannot be read or the bank not written.
    """
    source, target, files = resolved(file), resolved(path), FileLayer()
    if not source.is_file():
        raise InputError(f"There is no file {source}.", "Give one that export wrote.")
    if os.path.lexists(target) and not (target.is_dir() and not os.listdir(target)):
        raise InputError(f"There is already something at {target}.", "Give an empty or a new directory.")
    with translated(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _beside(target) as folder:
            found, made = folder / "found", folder / "bank"
            found.mkdir()
            made.mkdir()
            with translated(source):
                _unpack(source, found)
            with MemoryBank.open(found, read_only=True) as bank:
                bank.verify()
                stats = bank.stats()
                bank.copy_to(made)
            for name in sorted(os.listdir(made)):
                files.sync(made / name)
            files.sync(made)
            if target.exists():
                target.rmdir()
            _settle(made, target, files)
    return stats


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Make a folder beside a path, on the same disk, and remove it with what is left in it."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name[:40]}-", dir=target.parent) as folder:
        yield Path(folder)


def _settle(made: Path, target: Path, files: FileLayer) -> None:
    """Move what is complete to where it was asked for; raises if somebody was there first."""
    if os.path.lexists(target):
        raise InputError(f"There is already something at {target}.", "Give another path.")
    os.rename(made, target)
    files.sync(target.parent)


def _pack(archive: zipfile.ZipFile, path: Path) -> _Member:
    """Put a file into an archive, under a date that says nothing."""
    state, size = hashlib.sha256(), 0
    with path.open("rb") as file, archive.open(zipfile.ZipInfo(path.name), "w", force_zip64=True) as member:
        while piece := file.read(_PIECE):
            member.write(piece)
            state.update(piece)
            size += len(piece)
    return _Member(size, state.hexdigest())


def _unpack(source: Path, folder: Path) -> None:
    """Copy the members of an archive into a folder, each compared with its digest."""
    try:
        with source.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            found = _listed(archive, os.fstat(raw.fileno()).st_size)
            members = _manifest(archive, found.pop(_MANIFEST))
            if members.keys() != found.keys():
                raise _refused(source, "it holds other members than it says")
            for name, info in found.items():
                with archive.open(info) as member, (folder / name).open("xb") as file:
                    if _copy(member, file) != members[name]:
                        raise _refused(source, f"{name} is not as it was written")
    except _UNREADABLE as error:
        raise _refused(source, str(error) or type(error).__name__) from error


def _listed(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name; raises `ValueError` unless each is one of ours, once, and stored as it is."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename  # the other one ends at a zero byte
        if name not in (_MANIFEST, CATALOGUE) and segment_number(name) is None:
            raise ValueError(f"{name!r} is no part of a bank")
        if name in found:
            raise ValueError(f"{name} is there twice")
        kind = info.external_attr >> 16 & 0o170000
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or kind not in (0, 0o100000):
            raise ValueError(f"{name} is compressed, encrypted or no file")
        found[name] = info
    for info in found.values():
        if info.file_size != info.compress_size or info.header_offset < 0:
            raise ValueError(f"{info.filename} says two things of its size")
    # members that overlap would be more than the file
    if sum(info.file_size for info in found.values()) > size:
        raise ValueError("its members are larger than itself")
    if not {_MANIFEST, CATALOGUE} <= found.keys():
        raise ValueError(f"it has no {_MANIFEST} or no {CATALOGUE}")
    return found


def _manifest(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, _Member]:
    """Return what an archive says of its members; raises `ValueError` if it says anything else."""
    if info.file_size > _LONGEST_MANIFEST:
        raise ValueError(f"{_MANIFEST} is too long")
    said: Any = json.loads(archive.read(info))
    if not isinstance(said, dict) or said.get("format") != _FORMAT or not isinstance(said.get("members"), dict):
        raise ValueError(f"{_MANIFEST} is none of format {_FORMAT}")
    return {name: _stated(stated) for name, stated in said["members"].items()}


def _stated(stated: object) -> _Member:
    if not isinstance(stated, Mapping) or stated.keys() != {"bytes", "sha256"}:
        raise ValueError(f"{_MANIFEST} says other things of a member")
    return _Member(stated["bytes"], stated["sha256"])


def _copy(member: IO[bytes], file: IO[bytes]) -> _Member:
    """Copy a member and return what it was; a stored one is no longer than it says."""
    state, size = hashlib.sha256(), 0
    while piece := member.read(_PIECE):
        state.update(piece)
        size += file.write(piece)
    return _Member(size, state.hexdigest())


def _refused(source: Path, problem: str) -> BankFormatError:
    return BankFormatError(f"{source} is no whole exported bank: {problem}.", "Export the bank again.")
