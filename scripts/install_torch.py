"""Install torch into this Python's environment, without CUDA's gigabytes where no GPU can use them.

A torch that can be imported is left as it is. The environment variable TORCH_INDEX names another package index.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENT = "torch>=2.4"
CPU_BUILDS = ("2.13.0", "2.12.0", "2.11.0", "2.10.0", "2.9.1", "2.8.0", "2.7.1", "2.6.0")
"""Releases tried as `torch==X+cpu`, newest first: a build of that name has to be asked for by its whole version."""


def main() -> int:
    """Return pip's exit code, 0 if there was nothing to do."""
    if has_torch():
        return 0
    index = os.environ.get("TORCH_INDEX")
    if index:
        return install(REQUIREMENT, "--index-url", index)
    if platform.system() == "Linux" and not has_nvidia_driver():
        if any(install(f"torch=={version}+cpu", "--quiet", "--quiet", "--quiet") == 0 for version in CPU_BUILDS):
            return 0
        say("No CPU build of torch found. Set TORCH_INDEX to a package index with CPU builds to save a large download.")
    return install(REQUIREMENT)


def has_torch() -> bool:
    """Return whether torch can be imported; one that lacks a library it needs raises `OSError`."""
    try:
        importlib.import_module("torch")
    except (ImportError, OSError):
        return False
    return True


def has_nvidia_driver() -> bool:
    """Return whether an NVIDIA driver is installed."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def install(requirement: str, *options: str) -> int:
    """Return the exit code of pip, with its own configuration for where to look."""
    say(f"Installing {requirement}")
    return subprocess.call([sys.executable, "-m", "pip", "install", *options, requirement])  # noqa: S603 - fixed command


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
