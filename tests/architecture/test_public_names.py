"""What others may import is a promise: a name comes or goes on purpose, with a line in CHANGELOG.md."""

from __future__ import annotations

from importlib import import_module

import pytest

PROMISED = {
    "memrecall_kv": """
        Answer BankConfig Chunk ChunkingConfig CompressorConfig Document GateConfig IngestReport MemoryBank MemoryBlock
        MemRecall MemRecallConfig MemRecallError Quote ReasonerConfig Recall ScanConfig Trace Usage WorkingMemory
    """,
    "memrecall_kv.bank": "export_bank import_bank MemoryBank",
    "memrecall_kv.ingest": "chunk_document FolderSync Ingestion place_of read_documents read_files",
    "memrecall_kv.compress": "Compressor MemoryTokenCompressor OperatorCompressor ReferenceCompressor",
    "memrecall_kv.recall": "BackboneReasoner ClassifierGate Gate LikelihoodGate Reasoner TunedReasoner",
    "memrecall_kv.distributed": "fetch_shards ingest_ray ray_app Replicas",
    "llama_index_memrecall": """
        BackboneLLM MemoryBlockEncoder MemRecallIndex MemRecallMemoryBlock MemRecallPostprocessor MemRecallQueryEngine
        MemRecallRetriever
    """,
    "langchain_memrecall": """
        create_memrecall_tool MemRecallDocumentCompressor MemRecallMiddleware MemRecallRetriever MemRecallRunnable
        MemRecallStore
    """,
}


@pytest.mark.parametrize("package", PROMISED)
def test_the_public_names_are_those_that_were_promised(package: str) -> None:
    names = import_module(package).__all__
    assert sorted(names, key=str.lower) == sorted(PROMISED[package].split(), key=str.lower)
