"""MemRecall for LangChain: what answers, retrieves, reranks, stores and remembers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memrecall_kv.errors import MissingDependencyError

try:
    import_module("langchain_core")
except ModuleNotFoundError as error:
    raise MissingDependencyError("LangChain is not installed.", 'Run: pip install "memrecall-kv[langchain]"') from error

from langchain_memrecall.compressor import MemRecallDocumentCompressor
from langchain_memrecall.retriever import MemRecallRetriever
from langchain_memrecall.runnable import MemRecallRunnable
from langchain_memrecall.store import MemRecallStore
from langchain_memrecall.tool import create_memrecall_tool

if TYPE_CHECKING:
    from langchain_memrecall.middleware import MemRecallMiddleware

__all__ = [
    "create_memrecall_tool",
    "MemRecallDocumentCompressor",
    "MemRecallMiddleware",
    "MemRecallRetriever",
    "MemRecallRunnable",
    "MemRecallStore",
]


def __getattr__(name: str) -> Any:
    """Import the middleware when it is first asked for: it alone needs the package `langchain`."""
    if name != "MemRecallMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from langchain_memrecall.middleware import MemRecallMiddleware

    return MemRecallMiddleware
