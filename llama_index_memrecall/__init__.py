"""MemRecall for LlamaIndex: an index, a retriever and a query engine that recall, and a gate behind any retriever."""

from importlib import import_module

from memrecall_kv.errors import MissingDependencyError

try:
    import_module("llama_index.core")
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "LlamaIndex is not installed.", 'Run: pip install "memrecall-kv[llama-index]"'
    ) from error

from llama_index_memrecall.backbone_llm import BackboneLLM
from llama_index_memrecall.encoder import MemoryBlockEncoder
from llama_index_memrecall.index import MemRecallIndex
from llama_index_memrecall.memory_block import MemRecallMemoryBlock
from llama_index_memrecall.postprocessor import MemRecallPostprocessor
from llama_index_memrecall.query_engine import MemRecallQueryEngine
from llama_index_memrecall.retriever import MemRecallRetriever

__all__ = [
    "BackboneLLM",
    "MemoryBlockEncoder",
    "MemRecallIndex",
    "MemRecallMemoryBlock",
    "MemRecallPostprocessor",
    "MemRecallQueryEngine",
    "MemRecallRetriever",
]
