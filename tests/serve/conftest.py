"""Memories that are known, or wait until they are let go, and a server of one bank."""

import threading
from dataclasses import replace

import pytest
from memrecall_kv.cli import main
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from patience import PATIENCE
from serve_samples import ANSWER, LUNCH, TRAVEL, add, config, served


def judge(question, notes, block):
    """Believe in the chunks of TRAVEL, which are the long ones."""
    return 0.9 if block.num_source_tokens > 20 else 0.1


@pytest.fixture(scope="session")
def memory():
    """Answers with ANSWER whatever is asked if the bank holds TRAVEL, else with what it says when it finds nothing."""
    return tiny_memory(
        config(), gate=ScriptedGate(judge), reasoner=ScriptedReasoner({}, lambda question, notes: ANSWER)
    )


class Waiting:
    """A gate and a compressor that say where they are, and go on only when they are let go."""

    def __init__(self, compressor):
        self.entered, self.go, self.judged = threading.Event(), threading.Event(), []
        self._compressor = compressor

    def __getattr__(self, name):
        return getattr(self._compressor, name)

    def score(self, question, notes, blocks):
        self.judged.append(question)
        self._wait()
        return [0.9] * len(blocks)

    def compress(self, chunks):
        self._wait()
        return self._compressor.compress(chunks)

    def _wait(self):
        self.entered.set()
        if not self.go.wait(PATIENCE):
            raise TimeoutError("nobody let it go")


@pytest.fixture
def run(capsys, memory):
    """Run the script in this process, and return its exit code and what it printed."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments], lambda *given, **named: memory)
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def waiting_gate():
    """A memory, and what its gate waits for."""
    waiting = Waiting(None)
    yield tiny_memory(config(), gate=waiting, reasoner=ScriptedReasoner({}, lambda question, notes: ANSWER)), waiting
    waiting.go.set()


@pytest.fixture
def waiting_compressor(memory):
    """A memory, and what its compressor waits for."""
    waiting = Waiting(memory.parts.compressor)
    yield MemRecall(replace(memory.parts, compressor=waiting)), waiting
    waiting.go.set()


@pytest.fixture
async def client(memory, tmp_path):
    """A server of the bank `handbook`, which holds TRAVEL and LUNCH."""
    async with served(memory, tmp_path / "handbook.bank") as client:
        assert (await add(client, "handbook", TRAVEL, LUNCH))["state"] == "done"
        yield client
