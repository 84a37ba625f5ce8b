"""Question -> evidence -> answer."""

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.recall.gate import ClassifierGate, Gate, LikelihoodGate
    from memrecall_kv.recall.reasoner import BackboneReasoner, Reasoner, TunedReasoner

__all__ = [
    "BackboneReasoner",
    "ClassifierGate",
    "Gate",
    "LikelihoodGate",
    "Reasoner",
    "TunedReasoner",
]

__getattr__ = on_demand(
    __name__,
    {
        "BackboneReasoner": "memrecall_kv.recall.reasoner",
        "ClassifierGate": "memrecall_kv.recall.gate",
        "Gate": "memrecall_kv.recall.gate",
        "LikelihoodGate": "memrecall_kv.recall.gate",
        "Reasoner": "memrecall_kv.recall.reasoner",
        "TunedReasoner": "memrecall_kv.recall.reasoner",
    },
)
