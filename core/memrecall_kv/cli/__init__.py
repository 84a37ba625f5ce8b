"""The script `memrecall-kv`: the methods of `MemRecall` and `MemoryBank` under the same names.

Only this package prints and configures logging: results go to standard output, progress and errors to standard
error. Exit codes: 0 done; 1 nothing found, or verification failed; 2 wrong usage or a `MemRecallError`; 130
interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.cli.app import build_app
    from memrecall_kv.cli.commands import Loader

__all__ = ["build_app", "main"]

__getattr__ = on_demand(__name__, {"build_app": "memrecall_kv.cli.app"})


def main(arguments: Sequence[str] | None = None, load: Loader | None = None) -> None:
    """Run the script and exit.

    Args:
        arguments: Instead of those of the process.
        load: Instead of `MemRecall.from_pretrained`.

    Raises:
        SystemExit: Always, with the exit code.
    """
    try:
        from memrecall_kv.cli.app import run  # takes a while, during which somebody may lose patience

        run(arguments, load)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        raise SystemExit(130) from None
