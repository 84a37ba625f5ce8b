"""MemRecall for LangChain: what answers, retrieves, reranks, stores and remembers."""

from langchain_memrecall.compressor import MemRecallDocumentCompressor
from langchain_memrecall.retriever import MemRecallRetriever
from langchain_memrecall.runnable import MemRecallRunnable
from langchain_memrecall.store import MemRecallStore
from langchain_memrecall.tool import create_memrecall_tool

__all__ = [
    "create_memrecall_tool",
    "MemRecallDocumentCompressor",
    "MemRecallRetriever",
    "MemRecallRunnable",
    "MemRecallStore",
]
