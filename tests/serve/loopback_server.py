"""A server with a tiny model in a process of its own: `loopback_server.py serve BANK ...`, as the script is run."""

import sys

from memrecall_kv.cli import main
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from serve_samples import ANSWER, config


def judge(question, notes, block):
    return 0.9 if block.num_source_tokens > 20 else 0.1


def reply(question, notes):
    return ANSWER


def load(name_or_path, **options):
    return tiny_memory(config(), gate=ScriptedGate(judge), reasoner=ScriptedReasoner({}, reply))


if __name__ == "__main__":
    main(sys.argv[1:], load)
