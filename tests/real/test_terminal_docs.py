"""The session that the documentation shows is what happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]


def test_the_session_of_the_documentation_happens_as_it_is_shown() -> None:
    check = subprocess.run(
        [sys.executable, "scripts/terminal_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stderr) == (0, "")
