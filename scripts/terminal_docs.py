"""Write docs/terminal.md: a session with the default model, as it happened; with --check, fail if it would differ.

Seconds and speeds are not compared: they are those of the machine.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from memrecall_kv.cli import main as run
from memrecall_kv.pipeline import MemRecall

TARGET = Path(__file__).parent.parent / "docs" / "terminal.md"
FILES = {
    "travel.md": "# Travel\n\n"
    "Dana Whitfield approves trips above 500 euros. She also decides who gets a company car.\n",
    "lunch.txt": "Lunch is served at noon in the Orion room. Guests eat for free.\n",
    "parking.txt": "Visitors park behind the house. The gate opens at seven in the morning.\n",
}
PAGE = """# At the terminal

Written by `make terminal` from a real session with the default model; do not edit. [Command line](cli.md) lists every
command and option.

## A folder becomes a bank

The folder `handbook` holds three files. A plan comes first; it needs no model.

{0}

{1}

## A question, and one that follows

`ask` without a question is a session. Typed at a terminal it shows a prompt; here two questions are piped. The second
one is put into words of its own before it is asked, and these words are shown.

{2}

## The folder changes

One file is rewritten, one goes, one gets another name. What the bank holds of an unchanged text is used again.

{3}

{4}

{5}

## What to know

- `sync` touches only documents that this folder put into the bank. Others stay, whatever their names.
- A document goes when its file is gone. A file that cannot be read keeps its document and is reported.
- If nothing of the folder is left, or it is not mounted, nothing is removed without `--remove-all`.
- `sync --watch` goes on until Ctrl-C. It looks at the files every two seconds and waits until they rest.
- Follow-up questions are understood in English, by rules and by what the model finds likeliest. Of 36 that were
  written before the model was asked, 28 were understood. If one is not, the words it was asked in show it.
- A session keeps no history on the disk. `--history FILE` keeps the questions, readable by you alone.
- Ctrl-C stops an answer; Ctrl-D or `exit` ends the session. Elsewhere Ctrl-C ends the command with exit code 130.
- `NO_COLOR` is followed, and so is `COLUMNS`. Without a terminal there are no bars, only lines of text.
"""


def main() -> int:
    """Return 1 if `--check` was given and the session went otherwise, else 0."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            page = PAGE.format(*session())
        finally:
            os.chdir(here)
    if sys.argv[1:] != ["--check"]:
        TARGET.write_text(page, encoding="utf-8")
        return 0
    if _timeless(TARGET.read_text(encoding="utf-8")) == _timeless(page):
        return 0
    sys.stderr.write(f"{TARGET.name} is stale: run make terminal\n{page}")
    return 1


def session() -> list[str]:
    """Return the parts of the session, in the current folder."""
    load = cache(MemRecall.from_pretrained)

    def cached(name_or_path: str | None, **options: Any) -> MemRecall:
        return load(name_or_path, device=options["device"])

    handbook = Path("handbook")
    handbook.mkdir()
    for name, text in FILES.items():
        (handbook / name).write_text(text, encoding="utf-8")
    sync, ask = "memrecall-kv sync handbook handbook.bank", "memrecall-kv ask handbook.bank"
    parts = [
        shown(f"{sync} --dry-run", cached),
        shown(sync, cached),
        shown(ask, cached, "Who approves trips above 500 euros?", "What else does she decide?"),
    ]
    (handbook / "travel.md").write_text(FILES["travel.md"].replace("Dana Whitfield", "Amara Osei"), encoding="utf-8")
    (handbook / "lunch.txt").unlink()
    (handbook / "parking.txt").rename(handbook / "visitors.txt")
    return [
        *parts,
        shown(f"{sync} --dry-run", cached),
        shown(sync, cached),
        shown(f'{ask} "Who approves trips above 500 euros?"', cached),
    ]


def shown(command: str, load: Callable[..., MemRecall], *questions: str) -> str:
    """Run a command, questions on its standard input, and return it with what it printed."""
    printed = io.StringIO()
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO("\n".join(questions).encode()))
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            run(shlex.split(command)[1:], load)
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{command}: {printed.getvalue()}") from stop
    finally:
        sys.stdin = before
    output = printed.getvalue().strip("\n")
    lines = "".join(f"{question}\\n" for question in questions)
    typed = f"printf '{lines}' | {command}" if questions else command
    return f"```\n$ {typed}\n{output}\n```"


def _timeless(page: str) -> str:
    return re.sub(r"\d[\d.,]* (s|tokens/s)\b", "", page)


if __name__ == "__main__":
    sys.exit(main())
