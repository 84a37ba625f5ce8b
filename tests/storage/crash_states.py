"""Every state that a crash can leave on a disk: what was synced, and any part of what was not.

The program's calls are replayed up to each one; then the bank is opened in what would be on the disk if the
machine stopped there. A model of the disk: what was synced is there; of what was written since, all, nothing, a
torn last write, or any sectors of 512 bytes may be; and names may be as they were at the last sync of their folder.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import shim
from memrecall_kv.bank import MemoryBank
from memrecall_kv.errors import BankFormatError
from storage_trace import BUDGET, EVICTS, NATIVE, STEPS, WrongError, content, goes_on, open_bank

_SECTOR = 512

State = tuple[frozenset[str], dict[str, bytes]]
"""Folders and files."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that changed a file: kind, path, offset or size, and what was written."""

    kind: str
    path: str
    number: int
    data: bytes


@dataclass(slots=True)
class File:
    """A file: what is surely on the disk, and what was done since, as (offset or -1 for a size, bytes or size)."""

    synced: bytes = b""
    since: list[Call] = field(default_factory=list)

    def now(self) -> bytes:
        """Return what a program reads."""
        return self._after(self.since)

    def torn(self, source: random.Random) -> bytes:
        """Return it with only a part of the last write."""
        if not self.since or self.since[-1].kind != "w":
            return self.now()
        last = self.since[-1]
        end = source.randrange(0, len(last.data) // _SECTOR + 1) * _SECTOR or len(last.data) // 2
        return _apply(self._after(self.since[:-1]), Call("w", last.path, last.number, last.data[:end]))

    def sectors(self, source: random.Random) -> bytes:
        """Return it with some sectors written, some zero and some as they were."""
        data = self.synced
        for call in self.since:
            if call.kind == "t":
                data = _apply(data, call) if source.random() < 0.5 else data
                continue
            for start in range(0, len(call.data), _SECTOR):
                part, at = call.data[start : start + _SECTOR], call.number + start
                if source.random() < 0.5:
                    data = _apply(data, Call("w", call.path, at, part))
                elif source.random() < 0.5:
                    data = data.ljust(at + len(part), b"\0")
        return data

    def last_only(self) -> bytes:
        """Return it with the last call done before the others."""
        return self._after(self.since[-1:])

    def _after(self, calls: list[Call]) -> bytes:
        data = self.synced
        for call in calls:
            data = _apply(data, call)
        return data


def _apply(data: bytes, call: Call) -> bytes:
    if call.kind == "t":
        return data[: call.number].ljust(call.number, b"\0")
    data = data.ljust(call.number, b"\0")
    return data[: call.number] + call.data + data[call.number + len(call.data) :]


class Disk:
    """The disk of a machine: files and folders by path, as programs see them and as they surely are."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.folders: set[str] = set()
        self.synced_files: dict[str, File] = {}
        self.synced_folders: set[str] = set()

    def do(self, call: Call) -> None:
        """Do what a program did."""
        if call.kind == "m":
            self.folders.add(call.path)
        elif call.kind == "c":
            self.files.setdefault(call.path, File())
        elif call.kind == "u":
            self.files.pop(call.path, None)
        elif call.kind == "s" and call.path in self.files:
            file = self.files[call.path]
            file.synced, file.since = file.now(), []
        elif call.kind == "s":
            self._sync_names(call.path)
        elif call.path in self.files:
            file = self.files[call.path]
            at = len(file.now()) if call.number < 0 else call.number
            file.since.append(Call(call.kind, call.path, at, call.data))

    def states(self, source: random.Random) -> Iterator[tuple[str, State]]:
        """Yield what may be found after a crash."""
        now, then = (self.folders, self.files), (self.synced_folders, self.synced_files)
        for name, (folders, files), part in (
            ("all", now, File.now),
            ("nothing", now, lambda file: file.synced),
            ("names too", then, lambda file: file.synced),
            ("not names", then, File.now),
            ("last only", now, File.last_only),
            *((f"torn {i}", now, lambda file: file.torn(source)) for i in range(2)),
            *((f"sectors {i}", now, lambda file: file.sectors(source)) for i in range(3)),
        ):
            yield name, (frozenset(folders), {path: part(file) for path, file in files.items()})

    def _sync_names(self, folder: str) -> None:
        def inside(path: str) -> bool:
            return str(Path(path).parent) == folder

        self.synced_folders |= {path for path in self.folders if inside(path)}
        gone = [path for path in self.synced_files if inside(path) and path not in self.files]
        for path in gone:
            del self.synced_files[path]
        self.synced_files |= {path: file for path, file in self.files.items() if inside(path)}


def read_calls(log: Path) -> Iterator[Call]:
    """Yield the calls that `calls.c` noted."""
    data, at = log.read_bytes(), 0
    while at < len(data):
        kind, length = struct.unpack_from("<cI", data, at)
        path = data[at + 5 : at + 5 + length].decode()
        number, size = struct.unpack_from("<qI", data, at + 5 + length)
        start = at + 17 + length
        yield Call(kind.decode(), path, number, data[start : start + size])
        at = start + size


def check(folder: Path, root: str, state: State, acknowledged: int) -> None:
    """Open the bank in a state and raise unless it holds what was acknowledged, or that and the next step."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in sorted(state[0]):
        Path(path.replace(root, str(folder))).mkdir(exist_ok=True)
    for path, data in state[1].items():
        target = Path(path.replace(root, str(folder)))
        if target.parent.exists() and target.name != "acks":
            target.write_bytes(data)
    after = [[], *(documents for _, documents in STEPS)]
    allowed = [after[max(acknowledged, 0)], after[min(max(acknowledged, 0) + 1, len(STEPS))]]
    try:
        with MemoryBank.open(folder / "bank", read_only=True, config=NATIVE) as reader:
            if content(reader) not in allowed:
                raise WrongError("a reader sees another state")
            reader.verify()
    except BankFormatError:
        if acknowledged >= 0:
            raise
    with open_bank(folder / "bank", BUDGET if acknowledged >= EVICTS else NATIVE) as bank:
        found = content(bank)
        if found not in allowed:
            raise WrongError(f"it holds {[document.id for document in found]}")
        goes_on(bank)


def _key(state: State, acknowledged: int) -> bytes:
    key = hashlib.sha256(repr((sorted(state[0]), acknowledged)).encode())
    for path, data in sorted(state[1].items()):
        key.update(f"{path} {len(data)} ".encode())
        key.update(data)
    return key.digest()


def enumerate_states(folder: Path, *, seed: int = 0, every: int = 1) -> Counter[str]:
    """Check every distinct state, or every n-th; return how many, and of which kind those were that failed."""
    root, counts, seen, source = folder / "root", Counter[str](), set(), random.Random(seed)
    root.mkdir(parents=True)
    shim.run(shim.build(folder), "tracing.py", root, root=root, CALLS_LOG=str(folder / "log"))
    disk, acknowledged = Disk(), -1
    for call in read_calls(folder / "log"):
        if call.path.endswith("-reserve"):
            continue  # noise, which means nothing
        disk.do(call)
        if call.path.endswith("acks") and call.kind == "w":
            acknowledged = int(call.data)
        for name, state in disk.states(source) if disk.folders else ():
            key = _key(state, acknowledged)
            if key in seen:
                continue
            seen.add(key)
            if len(seen) % every:
                continue
            counts["states"] += 1
            try:
                check(folder / "state", str(root), state, acknowledged)
            except Exception as error:
                counts[f"FAILED {name}, acknowledged {acknowledged}: {type(error).__name__}: {error}"] += 1
    return counts
