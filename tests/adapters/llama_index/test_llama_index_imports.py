import subprocess
import sys

from patience import PATIENCE

PROGRAM = """
import sys
import llama_index_memrecall
from llama_index_memrecall import MemRecallPostprocessor, MemRecallQueryEngine, events
MemRecallPostprocessor(top_n=2).to_dict()
MemRecallQueryEngine.from_bank("nowhere")
for name in ("torch", "transformers", "langchain_core", "langchain_memrecall"):
    if name in sys.modules:
        sys.exit(name + " was imported")
"""


def test_importing_and_making_the_classes_imports_neither_torch_nor_the_other_host():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_public_names_are_sorted_and_exist():
    import llama_index_memrecall

    assert llama_index_memrecall.__all__ == sorted(llama_index_memrecall.__all__, key=str.lower)
    assert all(hasattr(llama_index_memrecall, name) for name in llama_index_memrecall.__all__)


WITHOUT_THE_HOST = """
import sys
sys.modules["llama_index.core"] = None  # as if it were not installed
from memrecall_kv.errors import MissingDependencyError
try:
    import llama_index_memrecall
except MissingDependencyError as error:
    print(error)
"""


def test_without_the_host_the_extra_is_named():
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_HOST], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'pip install "memrecall-kv[llama-index]"' in done.stdout
