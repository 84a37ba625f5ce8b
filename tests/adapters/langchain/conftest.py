import threading

import pytest
import torch
from langchain_core.documents import Document
from memrecall_kv import MemRecallConfig, ScanConfig
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_backbone, tiny_memory

from langchain_memrecall import MemRecallRetriever


@pytest.fixture(scope="session")
def memory():
    torch.set_num_threads(1)
    return tiny_memory()


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


@pytest.fixture(scope="session")
def scripted(memory):
    """The same backbone with notes and answers that are known."""
    notes = {"Dana approves trips.": "Dana approves."}
    return tiny_memory(reasoner=ScriptedReasoner(notes, lambda question, known: "Dana Whitfield does."))


@pytest.fixture
def open_only(memory):
    """Returns a memory whose gate opens just the blocks made of a text of so many bytes."""

    def make(size):
        config = MemRecallConfig(**{**dict(memory.config), "scan": ScanConfig(top_k=None)})
        gate = ScriptedGate(lambda question, notes, block: float(block.num_source_tokens == size))
        return tiny_memory(config, gate=gate)

    return make


class WaitingGate:
    """Says of every block that it matters, but only when it is let go."""

    def __init__(self):
        self.entered, self.go = threading.Event(), threading.Event()

    def score(self, question, memory, blocks):
        self.entered.set()
        if not self.go.wait(timeout=20):
            raise TimeoutError("nobody let the gate go: the event loop was blocked")
        return [1.0] * len(blocks)


@pytest.fixture
def waiting():
    gate, answered = WaitingGate(), []

    def reply(question, memory):
        answered.append(question)
        return "Dana."

    return tiny_memory(gate=gate, reasoner=ScriptedReasoner({}, reply)), gate, answered


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    path, backbone = tmp_path_factory.mktemp("checkpoint"), tiny_backbone()
    backbone.model.save_pretrained(path)
    backbone.tokenizer.save_pretrained(path)
    return str(path)
