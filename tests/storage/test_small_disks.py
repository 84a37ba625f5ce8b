"""A disk that is full, and one that may only be read; both are made by root where it may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from memrecall_kv.bank import MemoryBank
from memrecall_kv.config import BankConfig
from memrecall_kv.errors import BankError, BankFullError
from memrecall_kv.types import Chunk, Document, MemoryBlock
from storage_trace import FINGERPRINT

SMALL = BankConfig(segment_bytes=100_000, wait_seconds=0.3)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def put(bank: MemoryBank, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    keys, values = (torch.randn(2, 2, 64, 64, generator=generator) for _ in range(2))
    document = Document(f"d{number}", f"text {number} " * 50)
    chunk = Chunk(document.id, 0, 0, len(document.text), document.text, 64)
    positions = torch.arange(64, dtype=torch.int32)[None, None]
    bank.put_blocks([(chunk, MemoryBlock(keys, values, positions, 64, 64))])
    bank.put_document(document, [chunk])


def fill(disk: Path) -> Path:
    with (disk / "fill").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return disk / "fill"


def test_on_a_full_disk_things_are_read_and_deleted_and_then_there_is_room(disk: Path) -> None:
    with MemoryBank.open(disk / "bank", fingerprint=FINGERPRINT, config=SMALL) as bank:
        stored = 0
        with pytest.raises(BankFullError):
            for stored in range(1000):
                put(bank, stored)
        fill(disk)
        assert bank.verify() == stored
        with pytest.raises(BankFullError):
            put(bank, 1000)
        for number in range(stored // 2):
            bank.delete(f"d{number}")
        assert bank.compact() > 100_000
        assert bank.verify() == stored - stored // 2
        put(bank, 1000)
        assert bank.verify() == stored - stored // 2 + 1


def test_a_bank_on_a_full_disk_is_opened_for_reading(disk: Path) -> None:
    with MemoryBank.open(disk / "bank", fingerprint=FINGERPRINT, config=SMALL) as bank:
        put(bank, 1)
    fill(disk)
    with MemoryBank.open(disk / "bank", read_only=True) as reader:
        assert reader.verify() == 1


def test_a_bank_on_a_read_only_disk_is_read(disk: Path) -> None:
    with MemoryBank.open(disk / "bank", fingerprint=FINGERPRINT, config=SMALL) as bank:
        put(bank, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = sorted(os.listdir(disk / "bank"))
    with MemoryBank.open(disk / "bank", read_only=True) as reader:
        assert reader.verify() == 1
    with pytest.raises(BankError, match="open it with read_only"):
        MemoryBank.open(disk / "bank", fingerprint=FINGERPRINT)
    assert sorted(os.listdir(disk / "bank")) == before
