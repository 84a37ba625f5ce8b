"""Files -> documents -> chunks -> bank."""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.ingest.chunking import chunk_document
    from memrecall_kv.ingest.files import read_documents, read_files
    from memrecall_kv.ingest.ingest import Ingestion
    from memrecall_kv.ingest.places import place_of
    from memrecall_kv.ingest.sync import FolderSync

__all__ = [
    "chunk_document",
    "FolderSync",
    "Ingestion",
    "place_of",
    "read_documents",
    "read_files",
]

__getattr__ = on_demand(
    __name__,
    {
        "chunk_document": "memrecall_kv.ingest.chunking",
        "FolderSync": "memrecall_kv.ingest.sync",
        "Ingestion": "memrecall_kv.ingest.ingest",
        "place_of": "memrecall_kv.ingest.places",
        "read_documents": "memrecall_kv.ingest.files",
        "read_files": "memrecall_kv.ingest.files",
    },
)
