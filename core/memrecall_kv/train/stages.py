"""The stages by name: what each trains stands beside its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from memrecall_kv.train.gating import train_gate
from memrecall_kv.train.reading import train_reading
from memrecall_kv.train.rollouts import train_rl
from memrecall_kv.train.scoring import train_scorer
from memrecall_kv.train.settings import Stage

STAGES: Mapping[Stage, Callable[..., None]] = {
    "scorer": train_scorer,
    "compressor": train_reading,
    "reasoner": train_reading,
    "rl": train_rl,
    "gate": train_gate,
}
"""Each takes backbone, settings of its stage, data and the folder of the run; see `reading.train_reading`."""
