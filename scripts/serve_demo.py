"""Start a server with the default model, add a document with curl, and stream an answer; `make serve-demo`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HOST = "127.0.0.1:8765"
DOCUMENTS = [
    {"id": "travel.md", "text": "Dana Whitfield approves trips above 500 euros. She also decides who gets a car."},
    {"id": "lunch.md", "text": "Lunch is served at noon in the Orion room. Guests eat for free."},
]
QUESTION = {
    "model": "handbook",
    "messages": [{"role": "user", "content": "Who approves trips above 500 euros?"}],
    "stream": True,
}


def main() -> int:
    """Return 0 if an answer came."""
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "handbook.bank"
        command = ["memrecall_kv", "serve", str(bank), "--port", HOST.partition(":")[2]]
        say(f"$ {shlex.join(['memrecall-kv', *command[1:]])}")
        server = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL)  # noqa: S603 - ours
        try:
            curl("/healthz", "--no-show-error", "--retry", "600", "--retry-connrefused", "--retry-delay", "1")
            taken = json.loads(curl("/v1/banks/handbook/documents", "--json", json.dumps({"documents": DOCUMENTS})))
            curl(f"/v1/jobs/{taken['id']}/events", "--no-buffer")
            told = curl("/v1/chat/completions", "--no-buffer", "--json", json.dumps(QUESTION))
        finally:
            server.terminate()
            server.wait()
    return 0 if '"citations"' in told else 1


def curl(path: str, *options: str) -> str:
    """Call curl, show the call and what comes back as it comes, and return that."""
    command = ["curl", "--silent", "--show-error", "--fail", f"http://{HOST}{path}", *options]
    say(f"\n$ {shlex.join(command)}")
    told = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 - ours
        for line in running.stdout or ():
            told.append(line)
            say(line.rstrip("\n"))
    if running.returncode:
        raise SystemExit(f"curl ended with {running.returncode}")
    return "".join(told)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
