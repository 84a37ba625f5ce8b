"""Build the package, look into it, and use the wheel with no extra and with each extra alone; `make package`.

A base environment gets the wheel and what it requires. Each extra gets an environment of its own, which sees the base
and nothing else, so that what an extra forgot to name is missing there. Names of extras may be given: only these.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"

HELD = (
    "memrecall_kv/py.typed",
    "llama_index_memrecall/py.typed",
    "langchain_memrecall/py.typed",
    "memrecall_kv/data/alice.txt",
    "memrecall_kv/default/README.md",
    "memrecall_kv/default/memrecall_config.json",
    ".dist-info/licenses/LICENSE",
    ".dist-info/licenses/NOTICE",
)
"""What a wheel must hold."""

CORE = """
from memrecall_kv import Document
from memrecall_kv.testing import tiny_memory
memory = tiny_memory()
with memory.open_bank("notes.bank") as bank:
    memory.ingest(bank, [Document("travel", "Dana approves trips.")])
    assert memory.ask(bank, "Who approves trips?").usage.blocks_total == 1
"""

ALONE = {
    "": CORE
    + """
import importlib
from memrecall_kv.errors import MissingDependencyError
for adapter in ("llama_index_memrecall", "langchain_memrecall"):
    try:
        importlib.import_module(adapter)
    except ImportError as error:
        assert "llama-index" in str(error) or "langchain" in str(error) or error.name, error
    else:
        raise AssertionError(f"{adapter} came without its host")
""",
    "llama-index": """
import sys
from llama_index.core import Document
from llama_index_memrecall import MemRecallIndex
assert "torch" not in sys.modules
from memrecall_kv.testing import tiny_memory
index = MemRecallIndex.from_documents([Document(id_="travel", text="Dana approves trips.")], memory=tiny_memory())
assert index.as_retriever(similarity_top_k=1).retrieve("Who approves trips?")[0].node.ref_doc_id == "travel"
index.close()
""",
    "langchain": """
import sys
from langchain_core.documents import Document
from langchain_memrecall import MemRecallStore
assert "torch" not in sys.modules
from memrecall_kv.testing import tiny_memory
pages = [Document(id="travel", page_content="Dana approves trips.")]
store = MemRecallStore.from_documents(pages, memory=tiny_memory())
assert [found.id for found in store.as_retriever(search_kwargs={"k": 1}).invoke("Who?")] == ["travel"]
store.close()
""",
    "documents": """
from pathlib import Path
from openpyxl import Workbook
from memrecall_kv.ingest import read_documents
book = Workbook()
book.active.append(["Dana", "approves trips"])
book.save("rights.xlsx")
Path("page.html").write_text("<h1>Trips</h1><p>Dana approves trips.</p>")
assert all("Dana" in found.text for found in read_documents(["rights.xlsx", "page.html"]))
""",
    "serve": """
from memrecall_kv.serve import ServeSettings, build_app
from memrecall_kv.cli import main
try:
    main(["serve", "--help"])
except SystemExit as ended:
    assert not ended.code
""",
    "telemetry": """
from opentelemetry.sdk.trace import TracerProvider
from memrecall_kv.serve import build_app
from memrecall_kv.testing import tiny_memory
assert TracerProvider().get_tracer("memrecall_kv") and build_app(tiny_memory(), [])
""",
    "mcp": """
from memrecall_kv.serve import build_app
from memrecall_kv.serve.mcp import build_mcp
from memrecall_kv.testing import tiny_memory
assert build_app(tiny_memory(), [], with_mcp=True) and callable(build_mcp)
""",
    "remote": """
from memrecall_kv import MemRecall
from memrecall_kv.errors import ServerUnreachableError
with MemRecall.from_url("http://127.0.0.1:9", bank="notes") as memory:
    try:
        memory.ask("Who approves trips?")
    except ServerUnreachableError as error:
        assert "127.0.0.1:9" in str(error)
    else:
        raise AssertionError("nobody listens there")
""",
    "report": """
from memrecall_kv import Document
from memrecall_kv.report import answer_page
from memrecall_kv.testing import tiny_memory
memory = tiny_memory()
with memory.open_bank("notes.bank") as bank:
    memory.ingest(bank, [Document("travel", "Dana approves trips.")])
    assert "Dana approves trips." in answer_page(memory.ask(bank, "Who approves trips?"), bank)
""",
    "train": """
import tensorboard
from memrecall_kv.cli import main
try:
    main(["train", "--help"])
except SystemExit as ended:
    assert not ended.code
from memrecall_kv.train.settings import *
import yaml
from pathlib import Path
import memrecall_kv.train
presets = list((Path(memrecall_kv.train.__file__).parent / "presets").glob("*.yaml"))
assert len(presets) >= 5 and all(yaml.safe_load(preset.read_text()) for preset in presets)
""",
    "eval": """
import matplotlib
from memrecall_kv.cli import main
try:
    main(["eval", "--task", "niah-single", "--documents", "3", "--questions", "1", "--help"])
except SystemExit as ended:
    assert not ended.code
""",
    "ray": """
from memrecall_kv import Document
from memrecall_kv.distributed import ingest_ray
from memrecall_kv.testing import tiny_memory
ingest_ray([Document("travel", "Dana approves trips.")], "notes.shards", shards=2, load=tiny_memory, workers=1)
memory = tiny_memory()
with memory.open_bank("notes.shards", read_only=True) as bank:
    assert bank.ids() == ["travel"]
    assert memory.ask(bank, "Who approves trips?").usage.blocks_total == 1
from ray import serve
from memrecall_kv.distributed import Replicas, ray_app
light = Replicas(num_cpus=0.1)
app = serve.run(ray_app("notes.shards", load=tiny_memory, gates=light, readers=light))
assert app.ask.remote("Who approves trips?").result().usage.blocks_total == 1
serve.shutdown()
""",
}
"""A program for each extra that uses what it brings; other extras are installed, and the core is used."""


def main(extras: list[str]) -> int:
    """Return 0 if all is well; what is not raises."""
    wheel = built()
    known = looked_into(wheel)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        environment(base)
        run("install torch", [str(base / "bin/python"), str(ROOT / "scripts/install_torch.py")])
        run("install the wheel", pip(base, str(wheel)))
        use(base, "", Path(folder))
        for extra in extras or known:
            alone = Path(folder) / extra
            environment(alone, base)
            run(f"install [{extra}]", pip(alone, f"{wheel}[{extra}]"))
            use(alone, extra, Path(folder))
    return 0


def built() -> Path:
    """Build the source distribution, and the wheel out of it; return the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run("build", [sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)])
    files = sorted(DIST.iterdir())
    run("twine check", [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)])
    (wheel,) = (file for file in files if file.suffix == ".whl")
    say("sizes: " + ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in files))
    return wheel


def looked_into(wheel: Path) -> list[str]:
    """Return the extras that the wheel declares, but `all`, which is the others together.

    Raises:
        SystemExit: If something is missing, or there that should not be.
    """
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(file.read(about).decode("utf-8"))
    missing = [held for held in HELD if not any(name.endswith(held) for name in names)]
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if missing or tops != {"memrecall_kv", "llama_index_memrecall", "langchain_memrecall"}:
        raise SystemExit(f"The wheel lacks {missing}; it holds {sorted(tops)}.")
    say(f"{metadata['Name']} {metadata['Version']}: {len(names)} files, extras {metadata.get_all('Provides-Extra')}")
    return [extra for extra in metadata.get_all("Provides-Extra") if extra != "all"]


def environment(folder: Path, base: Path | None = None) -> None:
    """Make an environment; one with a base has no pip of its own, and sees the base's packages behind its own."""
    run("", [sys.executable, "-m", "venv", *(["--without-pip"] if base else []), str(folder)])
    if base is not None:
        (ours,), (theirs,) = (list(place.glob("lib/python*/site-packages")) for place in (folder, base))
        (ours / "base.pth").write_text(f"{theirs}\n", encoding="utf-8")


def pip(folder: Path, *what: str) -> list[str]:
    """Return the command that installs into an environment."""
    python = str(folder / "bin/python")
    return [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--disable-pip-version-check", *what]


def use(folder: Path, extra: str, place: Path) -> None:
    """Run the program of an extra, and the script, outside the checkout."""
    python = str(folder / "bin/python")
    with tempfile.TemporaryDirectory(dir=place) as empty:
        run(f"use [{extra}]", [python, "-I", "-c", ALONE.get(extra, CORE)], cwd=empty)
        run("", [python, "-I", "-m", "memrecall_kv", "--version"], cwd=empty)


def run(what: str, command: list[str], cwd: str | None = None) -> None:
    """Run a command, and say how long it took if it has a name."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        raise SystemExit(f"{what or command} failed:\n{done.stdout}{done.stderr}")
    if what:
        say(f"{what}: {time.monotonic() - began:.0f} s")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
