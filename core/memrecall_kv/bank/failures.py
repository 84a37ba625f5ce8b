"""Errors of SQLite and of the file system, told as errors of a bank."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.bank.files import NO_ROOM, has_no_room, may
from memrecall_kv.errors import BankError, BankFormatError, BankFullError, BankLockedError, InputError

_WRITES = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
    }
)
"""What SQLite says of a file that it could not make or let grow, whatever the reason."""
_LONGEST_PATH = 480
"""Bytes of a directory's path; SQLite opens files of up to 512."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise `BankError` or one of its kinds, or `InputError`, for what SQLite or the file system raise in the block."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
        raise BankError(f"The catalogue of {path} cannot be used: {error}", "Open the bank again.") from error
    except (sqlite3.DataError, OverflowError) as error:
        raise InputError(
            f"A text or a number is too large for the catalogue of {path}: {error}.", "Cut the document in parts."
        ) from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, str(error)) from error
    except UnicodeDecodeError as error:  # a message of SQLite's that quotes the damage
        raise damaged(path, str(error)) from error
    except UnicodeEncodeError as error:
        raise InputError(f"A text cannot be stored: {error}.", "Replace its lone surrogates.") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _full(path) from error
        raise BankError(f"{path} cannot be used: {error}.", _remedy(path)) from error


def damaged(path: Path, problem: str) -> BankFormatError:
    """Return the error for a catalogue that is not what was written."""
    return BankFormatError(
        f"The catalogue of {path} is damaged: {problem}.", "Restore the directory from a backup, or ingest again."
    )


def _unusable(path: Path, error: sqlite3.OperationalError) -> BankError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return BankFormatError(f"{path} was left half done by a writer.", "Open it for writing, which finishes it.")
    # of a quota and of a limit on files SQLite says no more than that the disk failed
    if code == sqlite3.SQLITE_FULL or (code in _WRITES and has_no_room(path)):
        return _full(path)
    code &= 0xFF  # the upper bits say more than we need
    if code == sqlite3.SQLITE_BUSY:
        return BankLockedError(f"Another process writes to the catalogue of {path}.", "Try again when it is done.")
    said = ("decode to UTF-8", "integer overflow", "malformed JSON", "JSON cannot hold")
    if any(words in str(error) for words in said):  # Python and SQL say so without a code
        return damaged(path, str(error))
    return BankError(f"The catalogue of {path} cannot be used: {error}.", _remedy(path))


def _remedy(path: Path) -> str:
    """Return what to do about a file that cannot be opened, read or written."""
    log = path / f"{CATALOGUE}-wal"
    if not os.path.exists(path):
        return "See whether it can be made there."
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"Give it a path shorter than {_LONGEST_PATH} bytes."
    if not may(path, os.R_OK | os.X_OK) or not may(path / CATALOGUE, os.R_OK):
        return "It is not there or this user may not read it: see its permissions."
    if not may(path, os.W_OK) or not may(path / CATALOGUE, os.W_OK):
        if os.path.exists(log) and os.path.getsize(log):
            return "It may not be written, and its last changes are in the log: open it once where it may be written."
        return "It lies on a read-only file system, or this user may not write it: open it with read_only."
    return "See whether the disk works and its files may be written."


def _full(path: Path) -> BankFullError:
    return BankFullError(
        f"There is no room left for {path}.", "Free space and run the same call again: what was stored is kept."
    )
