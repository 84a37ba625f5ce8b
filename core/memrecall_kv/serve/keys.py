"""API keys: a file of their hashes, each with the banks it opens."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memrecall_kv.errors import InputError

_PREFIX = "mrk_"
_BYTES = 32
"""Of chance in a key: too many to guess, so that a fast hash hides it as well as a slow one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        name: The key's; empty where there are no keys.
        banks: Names of the banks that the key opens; `None` for all.
    """

    name: str = ""
    banks: frozenset[str] | None = None

    def may_use(self, bank: str) -> bool:
        """Return whether a bank exists as far as this caller is concerned."""
        return self.banks is None or bank in self.banks


ANYBODY = Caller()
"""Who asks a server without keys."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    banks: list[str] | None = None


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    keys: list[_Entry] = []


class KeyFile:
    """The keys of a file, which holds no key itself.

    Args:
        path: The file; one that is not there has no keys yet.

    Raises:
        InputError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._entries)

    def caller(self, key: str) -> Caller | None:
        """Return who holds a key, in a time that does not tell how near it is to another one; `None` for nobody."""
        digest, found = _digest(key), None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return None if found is None else Caller(found.name, None if found.banks is None else frozenset(found.banks))

    def add(self, name: str, banks: Sequence[str] | None) -> str:
        """Make a key, keep its hash in the file, and return it: it can never be read again.

        Args:
            name: Whose key it is; logs and limits go by it.
            banks: Names of the banks it opens; `None` for all.

        Raises:
            InputError: If there is a key of this name, or the file cannot be written.
        """
        if not name or any(entry.name == name for entry in self._entries):
            raise InputError(f"Expected a new name for the key, got {name!r}.", "Choose another one, or revoke it.")
        key = _PREFIX + secrets.token_urlsafe(_BYTES)
        self._write([*self._entries, _Entry(name=name, sha256=_digest(key), banks=None if banks is None else [*banks])])
        return key

    def revoke(self, name: str) -> None:
        """Forget a key.

        Raises:
            InputError: If there is none of this name, or the file cannot be written.
        """
        left = [entry for entry in self._entries if entry.name != name]
        if len(left) == len(self._entries):
            known = ", ".join(entry.name for entry in self._entries) or "none"
            raise InputError(f"There is no key {name!r} in {self._path}.", f"These are: {known}.")
        self._write(left)

    def _write(self, entries: list[_Entry]) -> None:
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_Keys(keys=entries).model_dump_json(indent=1) + "\n")
            beside.replace(self._path)
        except OSError as error:
            raise InputError(
                f"{self._path}: expected a file to write, got: {error.strerror}.", "Name another one."
            ) from (error)
        self._entries = entries


def _read(path: Path) -> list[_Entry]:
    try:
        return _Keys.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: expected a file of keys, got: {error.strerror}.", "Check the path.") from error
    except ValidationError:
        # pydantic would quote the file
        raise InputError(
            f"{path}: expected a file of keys, got something else.", "Make one: memrecall-kv key FILE NAME."
        ) from None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
