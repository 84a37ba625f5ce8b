"""CPU seconds to import each adapter, and how many are its own: `python benchmarks/import_time.py [--rounds N]`.

The host's modules are imported first in the same process; what the adapter takes after that is its own. Each round is
a process of its own. Neither may load torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

ADAPTERS = ("memrecall_kv", "llama_index_memrecall", "langchain_memrecall")
OURS = ("memrecall_kv", "llama_index_memrecall", "langchain_memrecall")

LOADED = "import sys, json, {name}; print(json.dumps(list(sys.modules)))"
TIMED = """
import importlib, json, sys, time
began = time.process_time()
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError:  # a module that is made by its package while that is imported
        pass
host = time.process_time() - began
import {name}
print(json.dumps([host, time.process_time() - began - host, "torch" in sys.modules]))
"""


def child(code: str, *arguments: str) -> object:
    """Return what a fresh Python prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return json.loads(done.stdout)


def main() -> None:
    """Print a line for each adapter: medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("| import | the host's CPU seconds | ours | torch loaded |\n|---|---|---|---|")
    for name in ADAPTERS:
        loaded = [module for module in child(LOADED.format(name=name)) if module.split(".")[0] not in OURS]
        known = json.dumps([module for module in loaded if not module.startswith(("_", "__main__"))])
        rows = [child(TIMED.format(name=name), known) for _ in range(rounds)]
        host, ours = (statistics.median(row[place] for row in rows) for place in (0, 1))
        print(f"| `{name}` | {host:.2f} | {ours:.2f} | {any(row[2] for row in rows)} |")


if __name__ == "__main__":
    main()
