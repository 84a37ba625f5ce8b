"""The script `memrecall-kv`: the methods of `MemRecall` and `MemoryBank` under the same names.

Only this package prints and configures logging: results go to standard output, progress and errors to standard
error. Exit codes: 0 done; 1 nothing found, or verification failed; 2 wrong usage or a `MemRecallError`; 130
interrupted.
"""

from memrecall_kv.cli.app import build_app, main

__all__ = ["build_app", "main"]
