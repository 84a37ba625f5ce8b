"""A writer is killed again and again, at any moment, while others read; what it acknowledged must be there."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from memrecall_kv.bank import MemoryBank
from memrecall_kv.errors import BankError, BankLockedError, InputError, MemRecallError
from storage_trace import BUDGET, NATIVE, WrongError, block_of, content, open_bank, put, versioned

_DOCUMENTS = 40
State = dict[str, int]
"""The version of each document."""


def write(path: Path, seed: int, first: int) -> None:
    """Change a bank for ever, with odd seeds under a budget; say before and after each change what it is."""
    source, config = random.Random(seed), BUDGET if seed % 2 else NATIVE
    bank = open_bank(path, config)
    names = [document.id for document in bank.documents()]
    for version in range(first, sys.maxsize):
        kind = source.choices(("put", "delete", "compact", "reopen"), (60, 20, 10, 10))[0]
        doc_id = f"d{source.randrange(_DOCUMENTS)}"
        if kind == "delete" and doc_id not in names:
            kind = "put"
        step = json.dumps([kind, doc_id, version])
        sys.stdout.write(f"begin {step}\n")
        sys.stdout.flush()
        if kind == "put":
            bank.budget.mark_opened(source.sample(chunks := bank.chunks(), min(3, len(chunks))))
            put(bank, versioned(doc_id, version))
            names.append(doc_id)
        elif kind == "delete":
            bank.delete(doc_id)
            names = [name for name in names if name != doc_id]
        elif kind == "compact":
            with suppress(BankError):  # a reader keeps deleted text in the log
                bank.compact()
        else:
            bank.close()
            bank = open_bank(path, config)
        sys.stdout.write(f"done {step}\n")
        sys.stdout.flush()


def serve() -> None:
    """Fork a writer for each line of standard input, `SEED FIRST PATH`; say its process id, and when it is gone.

    What takes seconds is imported once.
    """
    for line in sys.stdin:
        seed, first, path = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if child == 0:
            write(Path(path), int(seed), int(first))
        sys.stdout.write(f"pid {child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)
        sys.stdout.write("gone\n")
        sys.stdout.flush()


def read(path: Path) -> None:
    """Read a bank until standard input closes; say what was read, and everything that was wrong."""
    counts: Counter[str] = Counter()
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            with MemoryBank.open(path, read_only=True) as bank:
                for _ in range(20):
                    _look(bank, counts)
        except BankLockedError:
            counts["times a reader was asked to wait"] += 1
        except Exception as error:
            counts[f"FAILED reader: {type(error).__name__}: {error}"] += 1
    sys.stdout.write(json.dumps(counts))


def _look(bank: MemoryBank, counts: Counter[str]) -> None:
    for document in bank.documents():
        if document != versioned(document.id, document.metadata["version"]):
            raise WrongError(f"document {document.id} is not whole")
    for chunk in bank.chunks():
        with suppress(InputError):  # replaced and compacted meanwhile
            (block,) = bank.blocks([chunk])
            if not bool((block.keys == block_of(chunk.text).keys).all()):
                raise WrongError(f"the block of {chunk.id} is another's")
            counts["blocks read meanwhile"] += 1


@dataclass
class Killing:
    """A bank that is written by processes that get killed."""

    path: Path
    seed: int
    server: subprocess.Popen[str]
    state: State = field(default_factory=dict)
    version: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def round(self, number: int) -> None:
        """Start a writer, kill it, and compare the bank with what it said."""
        source = random.Random(f"{self.seed}/{number}")
        said = self._said(self.seed * 1000 + number, source.randrange(1, 12), source.random() * 0.05)
        pending = self._follow(said)
        allowed = [self.state, *([_after(self.state, pending)] if pending else [])]
        with open_bank(self.path) as bank:
            found = {document.id: document.metadata["version"] for document in bank.documents()}
            if found not in allowed:
                raise WrongError(f"{found} is neither of {allowed}")
            for document in content(bank):
                if document != versioned(document.id, found[document.id]):
                    raise WrongError(f"document {document.id} is not whole")
            bank.verify()
        self.state = found
        self.counts["kills"] += 1
        self.counts[f"kills during {pending[0]}" if pending else "kills between steps"] += 1

    def _said(self, seed: int, acknowledgements: int, pause: float) -> list[str]:
        """Return what a writer said until it was killed, some moments after so many acknowledgements."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(f"{seed} {self.version + 1} {self.path}\n")
        self.server.stdin.flush()
        lines: list[str] = []
        writer = None
        while lines[-1:] != ["gone"]:
            lines.append(self.server.stdout.readline().rstrip())
            if lines[-1].startswith("pid"):
                writer = int(lines.pop().split()[1])
            if writer is not None and sum(line.startswith("done") for line in lines) >= acknowledgements:
                time.sleep(pause)
                os.kill(writer, signal.SIGKILL)
                writer = None
            if lines[-1:] == [""]:
                raise WrongError("the server of writers ended")
        if writer is not None:
            raise WrongError(f"the writer ended by itself after {lines[-2:]}")
        return lines[:-1]

    def _follow(self, said: list[str]) -> list[str] | None:
        """Take over what was acknowledged; return the step that was begun and not acknowledged."""
        pending = None
        for line in said:
            word, step = line.split(" ", 1)
            pending = json.loads(step)
            self.version = max(self.version, pending[2])
            if word == "done":
                self.state, pending = _after(self.state, pending), None
        return pending


def _after(state: State, step: list[str]) -> State:
    kind, doc_id, version = step
    if kind == "put":
        return {**state, doc_id: int(version)}
    return {key: value for key, value in state.items() if kind != "delete" or key != doc_id}


def kill(folder: Path, *, kills: int, readers: int = 3, seed: int = 0) -> Counter[str]:
    """Kill a writer so often; return how often, and of which kind those were that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    open_bank(folder / "bank").close()

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    killing = Killing(folder / "bank", seed, start("serve"))
    reading = [start("read", killing.path) for _ in range(readers)]
    for number in range(kills):
        try:
            killing.round(number)
        except (MemRecallError, WrongError) as error:
            killing.counts[f"FAILED kill {number}: {type(error).__name__}: {error}"] += 1
    killing.server.communicate()
    for reader in reading:
        said, _ = reader.communicate()
        killing.counts.update(json.loads(said))
    return killing.counts


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        read(Path(sys.argv[2]))
