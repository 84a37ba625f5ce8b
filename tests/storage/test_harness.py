"""A small part of `harness.py`: nothing acknowledged is lost, nothing wrong is read, and every error is ours."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import shim
from crash_states import enumerate_states
from faults import inject
from flips import flip, flip_log
from fuzz import fuzz
from kills import kill

needs_shim = pytest.mark.skipif(not shim.can_build(), reason="needs Linux and gcc")


def failed(counts: Counter[str]) -> list[str]:
    return [what for what in counts if what.startswith("FAILED")]


def test_a_killed_writer_leaves_what_it_acknowledged(ram: Path) -> None:
    counts = kill(ram, kills=2, readers=1)
    assert failed(counts) == []
    assert counts["kills"] == 2
    assert counts["blocks read meanwhile"] > 0


@needs_shim
def test_whatever_a_crash_leaves_on_the_disk_is_a_whole_bank(ram: Path) -> None:
    counts = enumerate_states(ram / "crashes", every=150)
    assert failed(counts) == []
    assert counts["states"] > 15


@needs_shim
def test_a_call_that_fails_loses_nothing(ram: Path) -> None:
    counts = inject(ram, every=307)
    assert failed(counts) == []
    assert counts["faults"] > 5
    assert counts["faults that were told"] > 0


@pytest.mark.parametrize("storage", ["native", "k4v3"])
def test_a_flipped_bit_is_harmless_or_found(ram: Path, storage: str) -> None:
    counts = flip(ram / "bank", every=1009 if storage == "native" else 509, storage=storage)
    counts += flip_log(ram / "log", every=29989)
    assert failed(counts) == []
    assert counts["flips and cuts"] > 100
    assert counts["flips of kvs, found"] > 20
    assert counts["flips of sqlite, found"] > 10


def test_readers_refuse_what_nobody_wrote(ram: Path) -> None:
    counts = fuzz(ram, inputs=2000)
    assert failed(counts) == []
    assert counts["inputs"] == 2000
    assert counts["records, refused"] > 700
    assert counts["records, read"] > 10
