"""MemRecall for LangChain: what answers, retrieves, reranks, stores and remembers."""

from langchain_memrecall.compressor import MemRecallDocumentCompressor
from langchain_memrecall.retriever import MemRecallRetriever
from langchain_memrecall.runnable import MemRecallRunnable
from langchain_memrecall.store import MemRecallStore

__all__ = ["MemRecallDocumentCompressor", "MemRecallRetriever", "MemRecallRunnable", "MemRecallStore"]
