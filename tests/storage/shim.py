"""`calls.c`, built; and programs that run behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def can_build() -> bool:
    """Return whether there is what building and preloading it takes."""
    return sys.platform == "linux" and shutil.which("gcc") is not None


def build(folder: Path) -> Path:
    """Build the library and return its path."""
    library = folder / "calls.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "calls.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def run(library: Path, script: str, *arguments: object, root: Path, **environment: str) -> str:
    """Run a script of this folder behind the library and return what it prints.

    Raises:
        RuntimeError: If it fails.
    """
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": str(library), "CALLS_ROOT": str(root), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
