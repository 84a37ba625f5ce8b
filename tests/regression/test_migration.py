"""A bank of an older format becomes one of today's whole or not at all."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from make_bank import FINGERPRINT, summary
from memrecall_kv.bank import MemoryBank, schema
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.writer_lock import WriterLock
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import BankError, BankFormatError, BankLockedError, FingerprintMismatchError

HERE = Path(__file__).parent


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(HERE / "bank-v1", tmp_path / "bank")


def version(path: Path) -> int:
    with closing(sqlite3.connect(path / CATALOGUE)) as database:
        return database.execute("PRAGMA user_version").fetchone()[0]


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path / CATALOGUE)) as database, database:
        database.execute(statement)


def content(path: Path) -> list[object]:
    with MemoryBank.open(path, read_only=True) as bank:
        return [bank.documents(), bank.chunks(), [summary(block) for block in bank.blocks(bank.chunks())]]


def test_opening_for_writing_migrates_and_opening_for_reading_does_not(old: Path) -> None:
    before = content(old)
    assert version(old) == 1
    with MemoryBank.open(old) as bank:
        assert bank.verify() == 4
    assert version(old) == 2
    assert content(old) == before


def test_compact_writes_old_records_anew_with_the_id_of_the_bank(old: Path) -> None:
    before = content(old)
    with MemoryBank.open(old) as bank:
        bank.compact()
        assert b"MRKVREC1" not in b"".join(file.read_bytes() for file in old.glob("seg-*"))
        assert bank.verify() == 4
    assert content(old) == before


def test_a_migrated_catalogue_has_the_very_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    MemoryBank.open(old).close()
    MemoryBank.open(tmp_path / "new", fingerprint=FINGERPRINT).close()
    listed = []
    for path in (old, tmp_path / "new"):
        with closing(sqlite3.connect(path / CATALOGUE)) as database:
            rows = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
            listed.append({row for row in rows if row[1] != "sqlite_sequence"})
    assert listed[0] == listed[1]


def test_a_reader_goes_on_while_its_bank_is_migrated(old: Path) -> None:
    with MemoryBank.open(old, read_only=True) as reader:
        before = reader.documents(), reader.chunks()
        MemoryBank.open(old).close()
        assert (reader.documents(), reader.chunks()) == before
        assert len(reader.blocks(reader.chunks())) == 4


KILLED = """
import os, signal, sys
from memrecall_kv.bank import MemoryBank, schema
real = schema._MIGRATIONS[1]
def dying(database):
    real(database)
    os.kill(os.getpid(), signal.SIGKILL)
schema._MIGRATIONS[1] = dying
MemoryBank.open(sys.argv[1])
"""

FULL = """
import resource, signal, sys
from memrecall_kv.bank import MemoryBank
from memrecall_kv.errors import BankError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6144, resource.RLIM_INFINITY))
try:
    MemoryBank.open(sys.argv[1])
except BankError as error:
    print(type(error).__name__)
"""


def test_a_migration_that_is_killed_leaves_the_old_bank(old: Path) -> None:
    before = content(old)
    done = subprocess.run([sys.executable, "-c", KILLED, str(old)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert content(old) == before
    assert version(old) == 1
    with MemoryBank.open(old) as bank:
        assert bank.verify() == 4


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_migration_without_room_leaves_the_old_bank(old: Path) -> None:
    before = content(old)
    done = subprocess.run([sys.executable, "-c", FULL, str(old)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() in ("BankError", "BankFullError"), done.stderr
    assert content(old) == before
    assert version(old) == 1


def test_a_step_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = schema._MIGRATIONS[1]

    def failing(database: sqlite3.Connection) -> None:
        real(database)
        raise ValueError("the last row")

    monkeypatch.setitem(schema._MIGRATIONS, 1, failing)
    before = content(old)
    with pytest.raises(BankFormatError, match="the last row"):
        MemoryBank.open(old)
    assert content(old) == before
    assert version(old) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE documents SET text = x'00ff'",
        "UPDATE documents SET metadata = x'7b7d'",
        "UPDATE chunks SET block = 'text' WHERE number = 0",
        "UPDATE blocks SET start = 'far'",
    ],
)
def test_a_damaged_old_bank_is_refused_and_stays_old(old: Path, statement: str) -> None:
    change(old, statement)
    with pytest.raises(BankFormatError, match="damaged"):
        MemoryBank.open(old)
    assert version(old) == 1


def test_nothing_is_migrated_for_the_wrong_model_or_under_another_writer(old: Path) -> None:
    with pytest.raises(FingerprintMismatchError):
        MemoryBank.open(old, fingerprint={"backbone": "another"})
    with WriterLock(old, 0), pytest.raises(BankLockedError):
        MemoryBank.open(old, config=BankConfig(wait_seconds=0))
    assert version(old) == 1


def test_a_bank_that_format_1_left_half_created_is_finished(old: Path) -> None:
    for statement in ("DELETE FROM chunks", "DELETE FROM documents", "DELETE FROM blocks", "DELETE FROM meta"):
        change(old, statement)
    with pytest.raises(BankError, match="no fingerprint"):
        MemoryBank.open(old, read_only=True)
    with MemoryBank.open(old, fingerprint=FINGERPRINT) as bank:
        assert bank.verify() == 0
    assert version(old) == 2


def test_a_newer_format_is_refused_untouched(old: Path) -> None:
    change(old, "PRAGMA user_version=3")
    before = (old / CATALOGUE).read_bytes()
    for read_only in (True, False):
        with pytest.raises(BankFormatError, match="format 3, this release reads 2"):
            MemoryBank.open(old, fingerprint=FINGERPRINT, read_only=read_only)
    assert (old / CATALOGUE).read_bytes() == before
