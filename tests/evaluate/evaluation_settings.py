"""Settings of the tiny pipeline that is measured."""

from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig, ScanConfig

SETTINGS = MemRecallConfig(
    chunking=ChunkingConfig(chunk_tokens=256),
    gate=GateConfig(threshold=0.0),
    scan=ScanConfig(top_k=2),
    reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=4),
)
