"""Files -> documents -> chunks -> bank."""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.ingest.chunking import chunk_document
    from memrecall_kv.ingest.files import read_documents
    from memrecall_kv.ingest.ingest import Ingestion

__all__ = [
    "chunk_document",
    "Ingestion",
    "read_documents",
]

__getattr__ = on_demand(
    __name__,
    {
        "chunk_document": "memrecall_kv.ingest.chunking",
        "Ingestion": "memrecall_kv.ingest.ingest",
        "read_documents": "memrecall_kv.ingest.files",
    },
)
