"""What every test relies on: one thread, no network, and tiny backbones built once."""

import os
import shutil
import signal
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from memrecall_kv.testing import tiny_backbone
from pytest_socket import disable_socket, enable_socket

ROOT = Path(__file__).parent.parent
RAM = Path("/dev/shm")  # noqa: S108 - only pytest's own folder is made there
ENOUGH = 2 * 2**30


settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure(config):
    settings.load_profile("untimed")  # a busy machine is no failure
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    torch.set_num_threads(1)  # a tiny model is tens of times slower with two threads on a busy machine
    if "TMPDIR" not in os.environ and RAM.is_dir() and shutil.disk_usage(RAM).free > ENOUGH:
        # thousands of tests make a bank each, and wait for the disk at every commit
        tempfile.tempdir = os.environ["TMPDIR"] = str(RAM)


@pytest.fixture(autouse=True)
def _no_network(request):
    """Refuse sockets, except the local ones an event loop is made of.

    Where a test names the hosts it talks to, with the mark `allow_hosts`, pytest-socket itself refuses all others.
    """
    if request.node.get_closest_marker("real") or request.node.get_closest_marker("allow_hosts"):
        yield
        return
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()


@pytest.fixture(scope="session")
def shared():
    """Return the folder of material that is not part of the project, or skip."""
    folder = Path(os.environ.get("MEMRECALL_KV_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared material in {folder}; set MEMRECALL_KV_SHARED")
    return folder


@pytest.fixture(scope="session")
def access():
    """Return a function that opens a tiny backbone; equal arguments share one, so that tests must not change it."""

    @cache
    def opened(family="llama", dtype=torch.float32, attention="sdpa", seed=0):
        return tiny_backbone(family, dtype=dtype, attention=attention, seed=seed)

    return opened
