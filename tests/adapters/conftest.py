"""What the tests of both hosts share: memories that are known, one that waits, and a saved one."""

import asyncio
import threading

import pytest
import torch
from memrecall_kv import MemRecallConfig, ScanConfig
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_backbone, tiny_memory
from patience import PATIENCE


@pytest.fixture(scope="session")
def memory():
    torch.set_num_threads(1)
    return tiny_memory()


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


@pytest.fixture
def compressions(memory, monkeypatch):
    """Texts of the chunks that went through a compressor."""
    seen, compress = [], type(memory)._compress

    def spy(self, chunks):
        seen.extend(chunk.text for chunk in chunks)
        return compress(self, chunks)

    monkeypatch.setattr(type(memory), "_compress", spy)
    return seen


class WaitingGate:
    """Says of every block that it matters, but only when it is let go."""

    def __init__(self):
        self.entered, self.go = threading.Event(), threading.Event()

    def score(self, question, memory, blocks):
        self.entered.set()
        if not self.go.wait(PATIENCE):
            raise TimeoutError("nobody let the gate go: the event loop was blocked")
        return [1.0] * len(blocks)

    async def reading(self, work):
        """Start something, and return its task when it has come to this gate."""
        task = asyncio.create_task(work)
        assert await asyncio.to_thread(self.entered.wait, PATIENCE)
        return task


@pytest.fixture
def waiting():
    gate, answered = WaitingGate(), []

    def reply(question, memory):
        answered.append(question)
        return "Dana."

    return tiny_memory(gate=gate, reasoner=ScriptedReasoner({}, reply)), gate, answered


@pytest.fixture
def meanwhile(waiting):
    """Returns what awaits something, and sees that the event loop goes on while the waiting gate reads."""
    _, gate, _ = waiting

    async def watched(work):
        task = await gate.reading(work)
        assert not task.done()
        gate.go.set()
        return await task

    return watched


@pytest.fixture
def cancelled(waiting):
    """Returns what cancels something while the waiting gate reads, and then lets the gate go."""
    _, gate, _ = waiting

    async def cancel(work):
        task = await gate.reading(work)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.go.set()

    return cancel


@pytest.fixture
def workers_are_gone():
    """Returns what waits until no stream that was left is at work any more."""

    async def wait():
        for thread in threading.enumerate():
            if thread.name.startswith("memrecall_"):
                await asyncio.to_thread(thread.join, PATIENCE)

    return wait


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    path, backbone = tmp_path_factory.mktemp("checkpoint"), tiny_backbone()
    backbone.model.save_pretrained(path)
    backbone.tokenizer.save_pretrained(path)
    return str(path)
