"""What the tests of the script share."""

from memrecall_kv.config import ChunkingConfig, MemRecallConfig
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory


class Loader:
    """Loads a tiny pipeline whose gate opens all and whose reasoner says what it is told to.

    The reply is a text, or is called with the question and returns one.
    """

    def __init__(self, reply="Dana approves trips."):
        self.reply = reply if callable(reply) else lambda question: reply
        self.calls = []

    def __call__(self, name_or_path, *, config, device, dtype):
        self.calls.append({"name": name_or_path, "config": config, "device": device, "dtype": dtype})
        gate = ScriptedGate(lambda question, memory, block: 0.9)
        reasoner = ScriptedReasoner({}, lambda question, memory: self.reply(question))
        settings = (config or MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=64))).model_dump()
        # what the packaged settings load was trained for another backbone
        settings["gate"] |= {"kind": "likelihood", "lexical_weight": 0.0, "layers": None}
        settings["bank"]["layers"] = "all"
        settings["reasoner"]["kind"] = "zero_shot"
        return tiny_memory(MemRecallConfig(**settings), gate=gate, reasoner=reasoner)
