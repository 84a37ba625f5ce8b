import pytest
from langchain_core.documents import Document
from memrecall_kv import GateConfig, MemRecallConfig
from memrecall_kv.testing import tiny_memory

from langchain_memrecall import MemRecallRetriever, MemRecallRunnable


@pytest.fixture(scope="session")
def worded(memory):
    """A memory whose gate listens to shared words, as the trained one does."""
    gate = GateConfig(threshold=0.0, lexical_weight=20.0)
    return tiny_memory(MemRecallConfig(**{**dict(memory.config), "gate": gate}), backbone=memory.backbone)


@pytest.fixture
def documents():
    return [
        Document(id="travel", page_content="Dana approves trips.", metadata={"team": "finance", "year": 2024}),
        Document(id="limits", page_content="The limit is 800 euros.", metadata={"team": "finance", "year": 2025}),
        Document(id="lunch", page_content="Lunch is at noon.", metadata={"team": "kitchen", "tags": ["food", "time"]}),
        Document(id="lift", page_content="The lift is broken.", metadata={"team": "facilities"}),
    ]


@pytest.fixture
def bank(memory, documents, tmp_path):
    path = tmp_path / "filled"
    MemRecallRetriever.from_documents(documents, bank=path, memory=memory).close()
    with memory.open_bank(path, read_only=True) as opened:
        yield opened


@pytest.fixture
def ask(scripted, bank):
    runnable = MemRecallRunnable(bank=bank, memory=scripted, top_k=2)
    yield runnable
    runnable.close()
