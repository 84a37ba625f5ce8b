"""Lay out the site in build: its pages, and mkdocs.yml; `make site` then builds it, strictly.

docs/index.md is the navigation. Pages are the repository's own: `docs/`, and those beside the code. Their links are
turned to where the pages stand on the site. What the site has no page for, such as a program of ours, is copied
beside it. The pages of the API are made from what the packages export.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "build" / "pages"

MOVED = {
    "README.md": "index.md",
    "docs/index.md": "pages.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "core/memrecall_kv/default/README.md": "default-model.md",
    "benchmarks/results/README.md": "results-index.md",
}
"""Where pages stand that are not in `docs/`, or have another name on the site."""

API = {
    "memrecall_kv": "Core",
    "memrecall_kv.ingest": "Reading files and folders",
    "memrecall_kv.bank": "Banks",
    "memrecall_kv.filters": "Filters",
    "memrecall_kv.errors": "Errors",
    "memrecall_kv.testing": "Fakes for tests",
    "llama_index_memrecall": "LlamaIndex",
    "langchain_memrecall": "LangChain",
}
"""Packages whose public names have a page, and its title."""


def main() -> int:
    """Lay the pages out anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    pages = {source: TARGET / place for source, place in places().items()}
    for source, target in pages.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / source).read_text(encoding="utf-8")
        target.write_text(turned(text, source, pages), encoding="utf-8")
    for image in (ROOT / "docs").rglob("*.svg"):
        copy(image, TARGET / image.relative_to(ROOT / "docs"))
    copy(ROOT / "llms.txt", TARGET / "llms.txt")
    for package, title in API.items():
        page = TARGET / "api" / f"{package}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(reference(package, title), encoding="utf-8")
    settings = (ROOT / "scripts" / "site.yml").read_text(encoding="utf-8")
    (TARGET.parent / "mkdocs.yml").write_text(f"{settings}\nnav: {json.dumps(navigation())}\n", encoding="utf-8")
    sys.stdout.write(f"{len(pages) + len(API)} pages in {TARGET.relative_to(ROOT)}\n")
    return 0


def places() -> dict[str, str]:
    """Return the page of the site for every page of the repository that has one."""
    docs = [page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))]
    return {page: page.removeprefix("docs/") for page in docs} | MOVED


def navigation() -> list[dict[str, list[dict[str, str]]]]:
    """Return the sections of docs/index.md with their pages, and the reference, as mkdocs wants them."""
    known = places()
    sections = []
    for section in (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        pages = []
        for title, link, about in re.findall(r"^- \[(.+)\]\(([^)]+\.md)\): (.+)", section, re.M):
            source = os.path.normpath(Path("docs") / link)
            pages.append({f"{title}: {about}" if title.isdigit() else title: known[source]})
        sections.append({section.partition("\n")[0]: pages})
    sections[0][next(iter(sections[0]))].append({"All pages": known["docs/index.md"]})
    return [*sections, {"Reference": [{title: f"api/{package}.md"} for package, title in API.items()]}]


def turned(text: str, source: str, pages: dict[str, Path]) -> str:
    """Return a page whose links lead to the site's pages and to copies of files; code is left as it is."""
    text = re.sub(r"^<!-- .*? -->\n", "\n", text, flags=re.M)  # a table must not follow a comment at once
    parts = re.split(r"(^```.*?^```)", text, flags=re.S | re.M)
    link = re.compile(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
    parts[::2] = [link.sub(lambda found: moved_link(found, source, pages), part) for part in parts[::2]]
    return "".join(parts)


def moved_link(found: re.Match[str], source: str, pages: dict[str, Path]) -> str:
    """Return a link as it must be written on the site; a folder, which the site cannot show, becomes its name."""
    image, text, link, anchor = found[1], found[2], found[3], found[4] or ""
    path = Path(os.path.normpath(ROOT / Path(source).parent / link))
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        return text
    if name in pages:
        target = pages[name]
    elif path.suffix == ".svg":
        target = TARGET / path.relative_to(ROOT / "docs")
    else:
        target = TARGET / "files" / (name + ".txt" if path.suffix == ".py" else name)
        copy(path, target)
    return f"{image}[{text}]({os.path.relpath(target, pages[source].parent)}{anchor})"


def copy(source: Path, target: Path) -> None:
    """Copy a file to where its folder may not be yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def reference(package: str, title: str) -> str:
    """Return the page of a package: what mkdocstrings is to show of it."""
    names = exported(package)
    blocks = "\n".join(f"::: {package}.{name}\n" for name in names)
    return f"# {title}\n\n`{package}`\n\n{blocks}"


def exported(package: str) -> list[str]:
    """Return the public names of a package or module, without importing it: `__all__`, or what is defined there."""
    base = ROOT / "core" if package.startswith("memrecall_kv") else ROOT
    path = base.joinpath(*package.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    defined = (node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    return [name for name in defined if not name.startswith("_")]


if __name__ == "__main__":
    sys.exit(main())
