"""A folder in memory, where there is one: these tests sync thousands of times."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import RAM


@pytest.fixture
def ram() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as folder:
        yield Path(folder)
