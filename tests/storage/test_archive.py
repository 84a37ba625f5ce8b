"""A bank as one file: what comes back is what was there, and nothing else is ever written."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memrecall_kv.bank import MemoryBank, export_bank, import_bank
from memrecall_kv.errors import BankFormatError, BankFullError, InputError, MemRecallError
from memrecall_kv.types import Document
from storage_trace import BUDGET, FINGERPRINT, LARGE, NATIVE, OLD, OTHER, chunks_of, content, goes_on, open_bank, put

SECRET = Document("gone", "deleted text and all its words")


@pytest.fixture
def bank(ram: Path) -> Iterator[MemoryBank]:
    with open_bank(ram / "bank") as found:
        for document in (OLD, SECRET, OTHER, LARGE):
            put(found, document)
        found.put_document(
            Document("later", "not compressed"), chunks_of(Document("later", "not compressed")), defer=True
        )
        found.delete("gone")
        yield found


@pytest.fixture
def good(bank: MemoryBank, ram: Path) -> Path:
    """Return an exported bank, without a deferred document."""
    bank.delete("later")
    export_bank(bank, ram / "good.zip")
    return ram / "good.zip"


def refused(file: Path, match: str = "no whole exported bank") -> None:
    """Raise unless a file is refused and nothing is left of it."""
    before = sorted(os.listdir(file.parent))
    with pytest.raises(MemRecallError, match=match):
        import_bank(file, file.parent / "imported")
    assert sorted(os.listdir(file.parent)) == before


def test_what_is_imported_is_what_was_exported_without_what_was_deleted(bank: MemoryBank, ram: Path) -> None:
    before = {path.name: path.read_bytes() for path in bank.path.glob("seg-*")}
    size = export_bank(bank, ram / "bank.zip")
    assert size == (ram / "bank.zip").stat().st_size
    assert {path.name: path.read_bytes() for path in bank.path.glob("seg-*")} == before
    data = (ram / "bank.zip").read_bytes()
    assert b"deleted text" not in data
    assert b"gone" not in data
    stats = import_bank(ram / "bank.zip", ram / "imported")
    assert (stats.documents, stats.chunks_deferred, stats.file_bytes) == (4, 2, stats.live_bytes)
    with open_bank(ram / "imported") as imported:
        assert imported.documents() == bank.documents()
        assert imported.fingerprint == FINGERPRINT
        there = [chunk for chunk in imported.chunks() if chunk.doc_id != "later"]
        for one, other in zip(imported.blocks(there), bank.blocks(there), strict=True):
            assert bool((one.keys == other.keys).all())
        goes_on(imported)


def test_a_copy_is_another_bank(bank: MemoryBank, ram: Path) -> None:
    export_bank(bank, ram / "bank.zip")
    ids = {bank._catalogue.bank_id}
    for name in ("one", "two"):
        import_bank(ram / "bank.zip", ram / name)
        with open_bank(ram / name) as imported:
            ids.add(imported._catalogue.bank_id)
            segment = max(imported._writer.segments())
    assert len(ids) == 3
    shutil.copy(segment, bank.path / "seg-00000999.kvs")
    bank.close()
    with open_bank(bank.path) as again, pytest.raises(BankFormatError, match="another bank"):
        put(again, Document("next", "it goes on"))


def test_a_bank_is_exported_from_wherever_it_can_be_read(bank: MemoryBank, ram: Path) -> None:
    expected = bank.documents()
    bank.close()
    bank.path.chmod(0o555)
    try:
        with MemoryBank.open(bank.path, read_only=True) as reader:
            export_bank(reader, ram / "bank.zip")
    finally:
        bank.path.chmod(0o755)
    import_bank(ram / "bank.zip", ram / "imported")
    with open_bank(ram / "imported") as imported:
        assert imported.documents() == expected


def test_nothing_that_is_there_is_overwritten(good: Path, bank: MemoryBank) -> None:
    with pytest.raises(InputError, match="already something"):
        export_bank(bank, good)
    with pytest.raises(InputError, match="already something"):
        import_bank(good, bank.path)
    with pytest.raises(InputError, match="already something"):
        import_bank(good, good)
    with pytest.raises(InputError, match="no file"):
        import_bank(good.parent / "nothing.zip", good.parent / "imported")
    (good.parent / "empty").mkdir()
    assert import_bank(good, good.parent / "empty").documents == 3


def test_a_bank_is_exported_while_it_is_written(ram: Path) -> None:
    """Every copy holds whole documents, those of one moment: they are replaced together."""
    names = [f"d{number}" for number in range(6)]

    def documents(version: int) -> list[Document]:
        return [Document(name, f"{name} of version {version:04d}", {"version": version}) for name in names]

    def store(bank: MemoryBank, version: int) -> None:
        new = [(document, chunks_of(document)) for document in documents(version)]
        for document, _ in new:
            put_blocks_of(bank, document)
        bank.put_documents(new)

    writing, stop, failed = open_bank(ram / "bank"), threading.Event(), []
    store(writing, 0)

    def write() -> None:
        try:
            for version in range(1, 10**6):
                store(writing, version)
                if version % 3 == 0:
                    writing.compact()
                if stop.is_set():
                    return
        except MemRecallError as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(4):
            with MemoryBank.open(ram / "bank", read_only=True, config=NATIVE) as reader:
                export_bank(reader, ram / f"{number}.zip")
    finally:
        stop.set()
        thread.join()
        writing.close()
    assert failed == []
    for number in range(4):
        import_bank(ram / f"{number}.zip", ram / f"bank{number}")
        with open_bank(ram / f"bank{number}") as imported:
            found = content(imported)
            assert found == documents(found[0].metadata["version"])


def put_blocks_of(bank: MemoryBank, document: Document) -> None:
    from storage_trace import block_of

    bank.put_blocks([(chunk, block_of(chunk.text)) for chunk in bank.missing(chunks_of(document))])


def test_an_evicted_block_is_still_one_that_may_be_made_again(ram: Path) -> None:
    with open_bank(ram / "bank", BUDGET) as bank:
        put(bank, LARGE)
        evicted = bank.stats().chunks_evicted
        assert evicted > 0
        export_bank(bank, ram / "bank.zip")
    assert import_bank(ram / "bank.zip", ram / "imported").chunks_evicted == evicted


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(file: Path, parts: list[tuple[zipfile.ZipInfo | str, bytes]], **how: int) -> Path:
    with zipfile.ZipFile(file, "w", **how) as archive:
        for name, data in parts:
            archive.writestr(name, data)
    return file


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


EXTRA: dict[str, zipfile.ZipInfo | str] = {
    "an absolute path": "/tmp/evil",  # noqa: S108 - it is refused
    "a path upwards": "../evil",
    "a path upwards behind a name": "seg-00000001.kvs/../../evil",
    "backslashes": "..\\evil",
    "a drive": "C:evil",
    "a folder": "folder/",
    "a foreign name": "notes.txt",
    "a log": "catalogue.sqlite-wal",
    "a journal": "catalogue.sqlite-journal",
    "a lock": "writer.lock",
    "a segment's copy": "seg-00000001 (1).kvs",
    "a number too long": "seg-0000000000000000000000001.kvs",
    "other digits": "seg-٠٠٠٠٠٠٠٩.kvs",
    "a link": link("seg-00000009.kvs"),
    "an undeclared segment": "seg-00000009.kvs",
    "another case": "Catalogue.sqlite",
}


@pytest.mark.parametrize("name", EXTRA, ids=str)
def test_a_member_that_is_none_of_a_banks_is_refused(good: Path, name: str) -> None:
    file = packed(good.parent / "bad.zip", [*members(good).items(), (EXTRA[name], b"evil")])
    refused(file)
    assert not Path("/tmp/evil").exists()  # noqa: S108


def change(name: str, how: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], list]:
    return lambda parts: [(key, how(data) if key == name else data) for key, data in parts.items()]


def manifest(how: Callable[[dict], object]) -> Callable[[dict[str, bytes]], list]:
    return change("bank.json", lambda data: json.dumps(how(json.loads(data))).encode())


def renamed(old: str, new: str) -> Callable[[dict[str, bytes]], list]:
    return lambda parts: [(new if key == old else key, data) for key, data in parts.items()]


SEGMENT = "seg-00000000.kvs"
CHANGES: dict[str, Callable[[dict[str, bytes]], list]] = {
    "no manifest": lambda parts: [(key, data) for key, data in parts.items() if key != "bank.json"],
    "no catalogue": lambda parts: [(key, data) for key, data in parts.items() if key != "catalogue.sqlite"],
    "a segment less": lambda parts: [(key, data) for key, data in parts.items() if key != SEGMENT],
    "a segment changed": change(SEGMENT, lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:]),
    "a segment cut": change(SEGMENT, lambda data: data[:-1]),
    "the catalogue changed": change("catalogue.sqlite", lambda data: data[:-9] + b"x" + data[-8:]),
    "no JSON": change("bank.json", lambda _: b"{"),
    "no text": change("bank.json", lambda _: b"\xff\xfe\xfd"),
    "deep JSON": change("bank.json", lambda _: b"[" * 200_000),
    "a list": manifest(lambda said: [said]),
    "another format": manifest(lambda said: {**said, "format": 2}),
    "no members": manifest(lambda said: {"format": 1}),
    "members in a list": manifest(lambda said: {**said, "members": list(said["members"])}),
    "a member without a digest": manifest(
        lambda said: {**said, "members": {key: {"bytes": 1} for key in said["members"]}}
    ),
    "members that are none": manifest(lambda said: {**said, "members": dict.fromkeys(said["members"])}),
    "members declared and not there": manifest(
        lambda said: {**said, "members": {**said["members"], "seg-00000007.kvs": {"bytes": 0, "sha256": ""}}}
    ),
    "another segment's number": renamed(SEGMENT, "seg-00000055.kvs"),
    "a long manifest": change("bank.json", lambda data: data + b" " * 2**25),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_archive_is_refused(good: Path, name: str) -> None:
    refused(packed(good.parent / "bad.zip", CHANGES[name](members(good))))


def test_a_member_that_is_there_twice_is_refused(good: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        file = packed(good.parent / "bad.zip", [*members(good).items(), (SEGMENT, b"again")])
    refused(file, "is there twice")


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_is_compressed_is_refused_before_it_is_unpacked(good: Path, how: int) -> None:
    bomb = [*members(good).items(), ("seg-00000009.kvs", bytes(50_000_000))]
    refused(packed(good.parent / "bad.zip", bomb, compression=how), "compressed")


def test_members_that_share_their_bytes_are_refused(good: Path) -> None:
    """Many names for one large member: a bomb without compression."""
    data = bytearray(packed(good.parent / "bad.zip", [("seg-00000001.kvs", bytes(100_000))]).read_bytes())
    end = data.rindex(b"PK\x05\x06")
    entry = bytes(data[data.index(b"PK\x01\x02") : end])
    names = [f"seg-{number:08d}.kvs".encode() for number in range(1, 2000)]
    listing = b"".join(entry.replace(b"seg-00000001.kvs", name) for name in names)
    closing = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(names), len(names), len(listing), end - len(entry), 0)
    (good.parent / "bad.zip").write_bytes(bytes(data[: end - len(entry)]) + listing + closing)
    refused(good.parent / "bad.zip", "larger than itself")


def test_a_catalogue_that_does_harm_is_refused_inside_an_archive_too(good: Path) -> None:
    """A digest proves nothing: whoever packs a bank computes it."""
    import hashlib
    import sqlite3

    parts = members(good)
    for statement in ("CREATE TRIGGER t AFTER INSERT ON blocks BEGIN SELECT 1; END", "UPDATE documents SET text = 'x'"):
        (good.parent / "changed.sqlite").write_bytes(parts["catalogue.sqlite"])
        with sqlite3.connect(good.parent / "changed.sqlite") as database:
            database.execute(statement)
        database.close()
        data = (good.parent / "changed.sqlite").read_bytes()
        said = json.loads(parts["bank.json"])
        said["members"]["catalogue.sqlite"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        changed = {**parts, "catalogue.sqlite": data, "bank.json": json.dumps(said).encode()}
        refused(packed(good.parent / "bad.zip", list(changed.items())), "catalogue|not the one its block")


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip" * 100, b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_archive_is_refused(ram: Path, data: bytes) -> None:
    (ram / "bad.zip").write_bytes(data)
    refused(ram / "bad.zip")


def test_a_changed_byte_is_found_or_means_nothing(good: Path) -> None:
    """Flips, cuts and noise anywhere: an error of ours, or the very bank."""
    source, data = random.Random(3), good.read_bytes()
    with zipfile.ZipFile(good) as archive:
        borders = [info.header_offset for info in archive.infolist()]
    # the parts that say what is where, more often than what is there
    near = [at for border in [*borders, len(data) - 500] for at in range(border, min(border + 90, len(data)))]
    harmless = 0
    for number in range(400):
        changed = bytearray(data)
        for _ in range(source.choice((1, 1, 3))):
            at = source.choice(near) if number % 2 else source.randrange(len(data))
            changed[at] = source.randrange(256)
        if number % 10 == 0:
            del changed[source.randrange(len(changed)) :]
        file = good.parent / "bad.zip"
        file.write_bytes(changed)
        try:
            import_bank(file, good.parent / "imported")
        except MemRecallError:
            assert not (good.parent / "imported").exists()
            continue
        harmless += 1
        with open_bank(good.parent / "imported") as imported:
            assert content(imported) == [OLD, OTHER, LARGE]
        shutil.rmtree(good.parent / "imported")
    assert sorted(os.listdir(good.parent)) == ["bad.zip", "bank", "good.zip"]
    assert harmless < 250


KILLED = """
import os, sys, time
from pathlib import Path
from memrecall_kv.bank import MemoryBank, archive, export_bank, import_bank
from memrecall_kv.bank.files import FileLayer

class Dying(FileLayer):
    left = int(sys.argv[2])
    def sync(self, path):
        Dying.left -= 1
        if Dying.left < 0:
            os._exit(9)
        super().sync(path)

archive.FileLayer = Dying
folder = Path(sys.argv[1])
if sys.argv[3] == "import":
    import_bank(folder / "good.zip", folder / "imported")
else:
    with MemoryBank.open(folder / "bank", read_only=True) as bank:
        export_bank(bank, folder / "out.zip")
"""


@pytest.mark.parametrize("what", ["import", "export"])
def test_a_crash_leaves_no_half_of_it(good: Path, bank: MemoryBank, what: str) -> None:
    bank.close()
    folder, target = good.parent, good.parent / {"import": "imported", "export": "out.zip"}[what]
    deaths = 0
    for survived in range(40):
        command = [sys.executable, "-c", KILLED, str(folder), str(survived), what]
        if subprocess.run(command, check=False).returncode == 0:
            break
        deaths += 1
        if target.exists():
            assert survived > 0  # it was complete, and only the name was not synced
            if what == "import":
                with open_bank(target) as imported:
                    assert content(imported) == [OLD, OTHER, LARGE]
                shutil.rmtree(target)
            else:
                import_bank(target, folder / "again")
                shutil.rmtree(folder / "again")
                target.unlink()
    assert deaths >= 2


def test_no_room_leaves_nothing_behind(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from memrecall_kv.bank.files import FileLayer

    def full(self: FileLayer, path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileLayer, "append", full)
    with pytest.raises(BankFullError):
        import_bank(good, good.parent / "imported")
    assert sorted(os.listdir(good.parent)) == ["bank", "good.zip"]
