import subprocess
import sys

PROGRAM = """
import sys
import langchain_memrecall
from langchain_memrecall import MemRecallRetriever, MemRecallRunnable
from langchain_core.load import dumps
dumps(MemRecallRunnable(bank="nowhere"))
dumps(MemRecallRetriever(bank="nowhere", k=3))
for name in ("torch", "transformers", "llama_index", "llama_index_memrecall"):
    if name in sys.modules:
        sys.exit(name + " was imported")
"""


def test_importing_making_and_saving_the_classes_imports_neither_torch_nor_the_other_host():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_public_names_are_sorted_and_exist():
    import langchain_memrecall

    assert langchain_memrecall.__all__ == sorted(langchain_memrecall.__all__, key=str.lower)
    assert all(hasattr(langchain_memrecall, name) for name in langchain_memrecall.__all__)
