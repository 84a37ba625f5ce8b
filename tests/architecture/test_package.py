"""What is published says what is true of it: versions, licences, extras, types, pages, and how it is released."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_is_named_everywhere() -> None:
    version = PROJECT["version"]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert re.search(r"^## (\S+)", read("CHANGELOG.md"), re.M)[1] == version


def test_every_python_that_is_allowed_is_a_classifier() -> None:
    assert PROJECT["requires-python"] == ">=3.11"
    named = [classifier.rpartition(" ")[2] for classifier in PROJECT["classifiers"] if ":: 3." in classifier]
    assert named == ["3.11", "3.12", "3.13"]


def test_all_is_every_other_extra_but_the_one_that_is_not_for_every_platform() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == extras.keys() - {"all", "ray"}


def test_what_is_imported_is_typed_and_licensed() -> None:
    for package in ("core/memrecall_kv", "llama_index_memrecall", "langchain_memrecall"):
        assert (ROOT / package / "py.typed").is_file()
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]


def test_the_notice_names_what_the_weights_were_trained_on_and_the_book() -> None:
    notice = " ".join(read("NOTICE").split())
    table = read("core/memrecall_kv/default/README.md").partition("| data, train splits only | licence |")[2]
    rows = re.findall(r"^\| (\w[\w.]*).* \| (.+) \|$", table.partition("\n\n")[0], re.M)
    assert len(rows) == 5
    for data, licence in rows:
        assert data in notice
        assert licence in notice
    assert "alice.txt" in notice


def test_a_release_needs_no_secret_and_only_its_last_step_may_publish() -> None:
    text = read(".github/workflows/release.yml")
    workflow = yaml.safe_load(text)
    assert "secrets." not in text
    assert workflow["permissions"] == {}
    allowed = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert allowed == {"build": {"contents": "read"}, "publish": {"id-token": "write"}}


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda form: form.stem
)
def test_forms_for_issues_are_whole(form: Path) -> None:
    fields = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem != "config":
        assert {"name", "description", "body"} <= fields.keys()
        ids = [field["id"] for field in fields["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids)) > 0


def test_the_site_has_every_page_once() -> None:
    site = runpy.run_path(str(ROOT / "scripts" / "site.py"))
    listed = [page for section in site["navigation"]() for pages in section.values() for page in pages]
    pages = [*site["places"]().values(), *(f"api/{package}.md" for package in site["API"])]
    assert sorted(page for entry in listed for page in entry.values()) == sorted(pages)
