"""MemRecall for LangChain: a runnable that answers, and a retriever."""

from langchain_memrecall.retriever import MemRecallRetriever
from langchain_memrecall.runnable import MemRecallRunnable

__all__ = ["MemRecallRetriever", "MemRecallRunnable"]
