import re
import subprocess
import sys
import tomllib
from pathlib import Path

from patience import PATIENCE

PROGRAM = """
import sys
import langchain_core.language_models.base
before = set(sys.modules)  # langchain-core 1.0 itself brings transformers in
import langchain_memrecall
from langchain_memrecall import MemRecallDocumentCompressor, MemRecallRetriever, MemRecallRunnable, MemRecallStore
from langchain_memrecall import create_memrecall_tool
from langchain_core.load import dumps
dumps(MemRecallRunnable(bank="nowhere"))
dumps(MemRecallRetriever(bank="nowhere", k=3))
MemRecallDocumentCompressor(top_n=3)
MemRecallStore("nowhere")
create_memrecall_tool(MemRecallRetriever(bank="nowhere"))
if "langchain" in sys.modules:
    sys.exit("langchain was imported before the middleware was asked for")
from langchain_memrecall import MemRecallMiddleware
MemRecallMiddleware("nowhere")
for name in ("torch", "transformers", "llama_index", "llama_index_memrecall"):
    if name in set(sys.modules) - before:
        sys.exit(name + " was imported")
"""


def test_importing_making_and_saving_the_classes_imports_neither_torch_nor_the_other_host():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_public_names_are_sorted_and_exist():
    import langchain_memrecall

    assert langchain_memrecall.__all__ == sorted(langchain_memrecall.__all__, key=str.lower)
    assert all(hasattr(langchain_memrecall, name) for name in langchain_memrecall.__all__)


WITHOUT_LANGCHAIN = """
import sys
sys.modules["langchain"] = None  # as if it were not installed
from memrecall_kv.errors import MissingDependencyError
import langchain_memrecall
try:
    langchain_memrecall.MemRecallMiddleware
except MissingDependencyError as error:
    print(error)
"""


def test_without_langchain_only_the_middleware_is_missing_and_says_so():
    done = subprocess.run([sys.executable, "-c", WITHOUT_LANGCHAIN], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'pip install "langchain' in done.stdout


def test_a_name_that_is_not_there_is_an_attribute_error():
    import langchain_memrecall

    assert not hasattr(langchain_memrecall, "MemRecall")


ROOT = Path(__file__).parents[3]


def test_the_adapter_does_not_need_langchain_classic_and_only_the_middleware_needs_langchain():
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "langchain_memrecall").glob("*.py")}
    assert [name for name, text in sources.items() if "langchain_classic" in text] == []
    assert [name for name, text in sources.items() if re.search(r"^\s*(from|import) langchain[. ]", text, re.M)] == [
        "middleware.py"
    ]


def test_the_wheel_holds_the_packages_and_no_tests():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["core/memrecall_kv", "llama_index_memrecall", "langchain_memrecall"]
    assert not any((ROOT / package / "tests").exists() for package in packages)


WITHOUT_THE_HOST = """
import sys
sys.modules["langchain_core"] = None  # as if it were not installed
from memrecall_kv.errors import MissingDependencyError
try:
    import langchain_memrecall
except MissingDependencyError as error:
    print(error)
"""


def test_without_the_host_the_extra_is_named():
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_HOST], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'pip install "memrecall-kv[langchain]"' in done.stdout
