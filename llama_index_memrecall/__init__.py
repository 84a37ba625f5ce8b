"""MemRecall for LlamaIndex: a query engine that recalls, and a gate to put behind any retriever."""

from llama_index_memrecall.postprocessor import MemRecallPostprocessor
from llama_index_memrecall.query_engine import MemRecallQueryEngine
from llama_index_memrecall.retriever import MemRecallRetriever

__all__ = ["MemRecallPostprocessor", "MemRecallQueryEngine", "MemRecallRetriever"]
