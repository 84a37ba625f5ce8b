"""Work in a forked child, for tests of what must not be shared with one."""

from __future__ import annotations

import os
from collections.abc import Callable

from memrecall_kv.errors import MemRecallError


def in_child(work: Callable[[], object]) -> str:
    """Return what a forked child's work says, or the error it raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except MemRecallError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:
            said = f"RAW {type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said
