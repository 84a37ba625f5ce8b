"""In which order the gate looks at blocks and the reasoner reads them.

Every schedule is a generator of decisions. `score` answers for the working memory of the moment: the
consumer reads an opened block and changes the memory before it asks for the next decision.

| schedule | same decisions as `sequential`? |
|---|---|
| `sequential` | it is the definition: the paper's one pass, one block at a time |
| `lookahead` | yes: scores ahead under the current memory and throws away what an opening made stale |
| `rescan` | its first round is `lookahead`; further rounds look again at what was refused |
| `best_first` | no: opens the most probable block that passes, and looks at all others again with what it said |
| `exact` | no: opens an exact number of blocks, the most probable first |

What makes `lookahead` exact: memory changes only at an opening, so the first block that passes is the one
`sequential` would open; and a score so near the threshold that the batch it was computed in could matter
is computed again alone, as `sequential` computes every score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from memrecall_kv.config import GateConfig, ScanConfig

Score = Callable[[Sequence[int]], list[float]]
"""Returns the gate's probabilities of the blocks with these indices, given the memory as it is now."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One look at one block.

    Attributes:
        round: 0 for the first pass, 1 for the first re-scan, ...
        index: Which block.
        gate_probability: In [0, 1].
        opened: Whether the reasoner is to read it now.
    """

    round: int
    index: int
    gate_probability: float
    opened: bool


def scan(count: int, score: Score, config: ScanConfig, gate: GateConfig) -> Iterator[Decision]:
    """Yield decisions on `count` blocks by the configured schedule, until `max_open` blocks are open."""
    if config.top_k is not None:
        yield from exact(count, score, top_k=config.top_k, max_rounds=config.max_rounds)
        return
    opened = 0
    for decision in _SCHEDULES[config.schedule](range(count), score, config, gate):
        yield decision
        opened += decision.opened
        if opened >= config.max_open:
            return


def sequential(
    indices: Sequence[int], score: Score, config: ScanConfig, gate: GateConfig, *, round: int = 0
) -> Iterator[Decision]:
    """Look at one block after the other, once: the paper's order."""
    for index in indices:
        probability = score([index])[0]
        yield Decision(round, index, probability, probability > gate.threshold)


def lookahead(
    indices: Sequence[int], score: Score, config: ScanConfig, gate: GateConfig, *, round: int = 0
) -> Iterator[Decision]:
    """Take the decisions of `sequential`, scoring a batch of blocks at a time."""
    start = 0
    while start < len(indices):
        ahead = indices[start : start + gate.batch_size]
        for index, scored in zip(ahead, score(ahead), strict=True):
            near = abs(scored - gate.threshold) <= gate.rescore_margin
            probability = score([index])[0] if near else scored
            opened = probability > gate.threshold
            start += 1
            yield Decision(round, index, probability, opened)
            if opened:
                break  # the memory has changed: the other scores of this batch are stale


def rescan(indices: Sequence[int], score: Score, config: ScanConfig, gate: GateConfig) -> Iterator[Decision]:
    """Repeat `lookahead` over the refused blocks until a round opens nothing.

    Deviation from the paper, which never looks back: its largest class of errors is evidence that was
    refused before its bridge was known (arXiv:2602.08382, error analysis).
    """
    refused = list(indices)
    for round in range(config.max_rounds):
        left = []
        for decision in lookahead(refused, score, config, gate, round=round):
            yield decision
            if not decision.opened:
                left.append(decision.index)
        if len(left) in (0, len(refused)):
            return
        refused = left


def best_first(indices: Sequence[int], score: Score, config: ScanConfig, gate: GateConfig) -> Iterator[Decision]:
    """Open the most probable block until none passes, looking again at all that are left.

    Deviation from the paper, as for `rescan`; here a block that only seems to matter early on can lose to a better one.
    """
    left = list(indices)
    for round in range(config.max_open + 1):
        probabilities = score(left)
        # ties go to the earlier block
        best = max(range(len(left)), key=lambda place: (probabilities[place], -place), default=None)
        if best is None or probabilities[best] <= gate.threshold:
            for index, probability in zip(left, probabilities, strict=True):
                yield Decision(round, index, probability, opened=False)
            return
        yield Decision(round, left.pop(best), probabilities[best], opened=True)


def exact(count: int, score: Score, *, top_k: int, max_rounds: int) -> Iterator[Decision]:
    """Open exactly `top_k` blocks, or all if there are fewer: in each round the best under the current memory."""
    closed = list(range(count))
    wanted = min(top_k, count)
    rounds = min(max_rounds, wanted)
    for round in range(rounds):
        probabilities = dict(zip(closed, score(closed), strict=True))
        share = math.ceil(wanted / (rounds - round))
        # ties go to the earlier block, so that the order does not depend on the sort
        best = sorted(closed, key=lambda index: (-probabilities[index], index))[:share]
        closed = [index for index in closed if index not in best]
        wanted -= len(best)
        for index in best:
            yield Decision(round, index, probabilities[index], opened=True)
        if wanted == 0:
            for index in closed:
                yield Decision(round, index, probabilities[index], opened=False)


def second_look(closed: Sequence[int], score: Score, config: ScanConfig, *, opened: int, round: int) -> Decision | None:
    """Return the opening of the best closed block after an answer was not found, if there is to be one.

    Deviation from the paper, which takes the reasoner's refusal as the last word: a gate's threshold costs most where
    the last hop is named by nothing that was read so far, and the reasoner is the first to notice.

    Args:
        closed: Blocks that were refused.
        score: See `scan`.
        config: How probable it must be, and how many blocks may be open.
        opened: How many are.
        round: The decision's.
    """
    if config.second_look is None or config.top_k is not None or not closed or opened >= config.max_open:
        return None
    probability, first = max(zip(score(closed), (-index for index in closed), strict=True))
    return Decision(round, -first, probability, opened=True) if probability > config.second_look else None


_SCHEDULES: dict[str, Callable[..., Iterator[Decision]]] = {
    "sequential": sequential,
    "lookahead": lookahead,
    "rescan": rescan,
    "best_first": best_first,
}
