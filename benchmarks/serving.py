"""Clients at once on loopback: errors, lost documents, the server's memory and how long calls take.

`python benchmarks/serving.py --clients 32 --seconds 60` starts the server of the tests, whose model is tiny: what is
measured is the server, not a model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from memrecall_kv import Document, MemRecallError
from memrecall_kv.remote import RemoteMemRecall

ROOT = Path(__file__).parents[1]
PAGE = os.sysconf("SC_PAGE_SIZE")


class Client(threading.Thread):
    """Asks, recalls and adds, one after the other, until the time is up."""

    def __init__(self, number: int, url: str, end: float) -> None:
        super().__init__()
        self.number, self.url, self.end = number, url, end
        self.took: dict[str, list[float]] = {"ask": [], "recall": [], "add": []}
        self.errors: Counter[str] = Counter()
        self.acknowledged: list[str] = []

    def run(self) -> None:
        """Work."""
        draws = random.Random(self.number)  # noqa: S311 - to be repeatable, not secret
        with RemoteMemRecall(self.url, "load") as memory:
            while time.monotonic() < self.end:
                what = draws.choices(("ask", "recall", "add"), (6, 3, 1))[0]
                began = time.monotonic()
                try:
                    self._call(memory, what)
                except MemRecallError as error:
                    self.errors[f"{type(error).__name__}: {error}"[:200]] += 1
                else:
                    self.took[what].append(time.monotonic() - began)

    def _call(self, memory: RemoteMemRecall, what: str) -> None:
        if what == "add":
            name = f"{self.number}/{len(self.acknowledged)}"
            memory.ingest([Document(name, f"Note {name} says that nothing is new.")])
            self.acknowledged.append(name)
        elif what == "ask":
            memory.ask("Who approves trips?")
        else:
            memory.recall("Who approves trips?", top_k=2)


def main() -> int:
    """Return 0 if nothing went wrong and nothing was lost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = ROOT / "tests" / "serve" / "loopback_server.py"
        paths = [ROOT / "core", script.parent, script.parents[1], os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(  # noqa: S603 - ours
            [sys.executable, str(script), "serve", f"{folder}/load.bank", "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        )
        try:
            found = measured(process, options.clients, options.seconds)
        finally:
            process.terminate()
            process.wait()
    print(json.dumps(found, indent=1))
    return 1 if found["errors"] or found["lost"] else 0


def measured(process: subprocess.Popen[str], clients: int, seconds: float) -> dict[str, object]:
    """Return what a run says."""
    url = next(match[1] for line in process.stderr if (match := re.search(r"running on (http://[^ ]*)", line)))
    threading.Thread(target=process.stderr.read, daemon=True).start()
    with RemoteMemRecall(url, "load") as memory:
        memory.ingest([Document("travel", "Dana approves trips of more than fifty euros. Nobody else does.")])
        memory.ask("Who approves trips?")
        running = [Client(number, url, time.monotonic() + seconds) for number in range(clients)]
        for client in running:
            client.start()
        resident = []
        while any(client.is_alive() for client in running):
            resident.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE)
            time.sleep(1.0)
        kept = set(memory.ids())
    acknowledged = {name for client in running for name in client.acknowledged}
    quarter = max(1, len(resident) // 4)
    return {
        "clients": clients,
        "seconds": seconds,
        "errors": dict(sum((client.errors for client in running), Counter())),
        "added": len(acknowledged),
        "lost": len(acknowledged - kept),
        "rss_mb": [round(statistics.mean(part) / 2**20, 1) for part in (resident[:quarter], resident[-quarter:])],
        "calls": {what: percentiles([each for one in running for each in one.took[what]]) for what in running[0].took},
    }


def percentiles(took: list[float]) -> dict[str, float]:
    """Return how many calls there were, and their seconds at some percentiles."""
    ordered = sorted(took) or [float("nan")]
    at = {f"p{share}": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)], 3) for share in (50, 95, 99)}
    return {"count": len(took), **at}


if __name__ == "__main__":
    sys.exit(main())
