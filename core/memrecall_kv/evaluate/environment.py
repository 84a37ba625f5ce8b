"""What a measurement was made on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("memrecall-kv", "torch", "transformers", "tokenizers", "numpy", "bm25s")
_TUNING = ("OMP_", "MKL_", "MALLOC_", "GLIBC_", "PYTORCH_", "CUDA_")
"""How the names of variables begin that make the same program faster or slower."""


def environment() -> dict[str, Any]:
    """Return processors, threads, versions, variables that change speed, git revision and date; JSON values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_TUNING)},
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "revision": _revision(),
    }


def peak_memory() -> int:
    """Return the most memory this process has had since `forget_peak`, in bytes; 0 where nobody can tell."""
    peak = _status("VmHWM")
    if peak is not None:
        # unlike getrusage, this does not count what the process had before it became this program
        return peak
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_peak() -> int | None:
    """Let the peak begin anew and return the memory of this moment, in bytes; `None` where that cannot be done.

    Loading a model takes more memory than most of what is done with it, and would hide it.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status("VmRSS")


def peak_on_gpu() -> int | None:
    """Return the most GPU memory held since `forget_peak`, in bytes; `None` where there is none."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def _status(name: str) -> int | None:
    """Return a size that Linux tells of this process, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
    sizes = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return next(sizes, None)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Return the commit this package runs from, with a plus if files differ from it; `None` outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run(  # noqa: S603  # fixed arguments
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True, timeout=30
        )
        changed = subprocess.run(  # noqa: S603  # fixed arguments
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() + "+" * bool(changed.stdout.strip())
