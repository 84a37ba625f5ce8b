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
