"""The structure holds: what imports what, what is exported, and that docs name what exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import memrecall_kv

ROOT = Path(__file__).parents[2]
HOSTS = ("llama_index", "langchain", "langchain_core", "llama_index_memrecall", "langchain_memrecall")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_core_loads_neither_torch_nor_a_host() -> None:
    loaded = run("import sys, memrecall_kv; print(' '.join(sys.modules))").split()
    assert not {"torch", "transformers", *HOSTS} & set(loaded)


def test_the_pipeline_loads_no_host() -> None:
    loaded = run("import sys, memrecall_kv.pipeline; print(' '.join(sys.modules))").split()
    assert "torch" in loaded
    assert not set(HOSTS) & set(loaded)


def test_public_names_are_sorted_and_exist() -> None:
    names = memrecall_kv.__all__
    assert [name.lower() for name in names] == sorted(name.lower() for name in names)
    assert all(hasattr(memrecall_kv, name) for name in names)


def test_only_kv_touches_the_cache_and_only_models_loads() -> None:
    for path in (ROOT / "core").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "kv.py":
            assert "DynamicCache" not in text, path
        if path.name != "loading.py":
            assert not re.search(r"Auto\w+\.from_pretrained", text), path


def test_a_backbone_has_one_access_to_keys_and_values() -> None:
    """Each makes a probe, a sink and a float32 head of its own."""
    calls = [
        path.name
        for path in (ROOT / "core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "KVAccess"
    ]
    assert calls == ["backbone.py"]


def test_paths_named_in_docs_exist() -> None:
    missing = []
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for name in re.findall(
            r"`((?:core|docs|tests|benchmarks|examples)/[\w./-]+)`", page.read_text(encoding="utf-8")
        ):
            if not (ROOT / name).exists():
                missing.append(f"{page.name}: {name}")
    assert missing == []


def test_every_paper_cited_in_the_code_is_in_the_list() -> None:
    listed = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    cited = {
        paper
        for path in (ROOT / "core").rglob("*.py")
        for paper in re.findall(r"arXiv:(\d{4}\.\d{5})", path.read_text(encoding="utf-8"))
    }
    assert cited
    assert {paper for paper in cited if paper not in listed} == set()
