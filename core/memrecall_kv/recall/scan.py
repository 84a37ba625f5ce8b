"""In which order the gate looks at blocks and the reasoner reads them.

Every schedule is a generator of decisions over a pool: the blocks that may be opened, and the gate's
probabilities of them, both under the notes of the moment. The consumer reads an opened block and changes
the notes before it asks for the next decision.

| schedule | same decisions as `sequential`? |
|---|---|
| `sequential` | it is the definition: the paper's one pass, one block at a time |
| `lookahead` | yes: scores ahead under the current notes and throws away what an opening made stale |
| `rescan` | its first round is `lookahead`; further rounds look again at what was refused |
| `best_first` | no: opens the most probable block that passes, and looks at all others again with what it said |
| `exact` | no: opens an exact number of blocks, the most probable first |

What makes `lookahead` exact: notes change only at an opening, so the first block that passes is the one
`sequential` would open; and a score so near the threshold that the batch it was computed in could matter
is computed again alone, as `sequential` computes every score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from memrecall_kv.config import GateConfig, ScanConfig
from memrecall_kv.types import Step


class Pool(Protocol):
    """What a schedule chooses from; a block is known by its chunk's id."""

    def closed(self, opened: Collection[str]) -> list[str]:
        """Return what may be opened under the notes as they are now and is not open, in the bank's order."""
        ...

    def score(self, chunk_ids: Sequence[str]) -> list[float]:
        """Return the gate's probabilities of blocks, in [0, 1], under the notes as they are now."""
        ...

    def weigh(self, chunk_ids: Sequence[str], wanted: int) -> dict[str, float]:
        """Return what `score` does, by id; of all but the `wanted` most probable blocks it may be an estimate."""
        ...


class DocumentPool(Pool, Protocol):
    """A pool that knows which document a block is of."""

    def elsewhere(self, opened: Collection[str], doc_ids: Collection[str]) -> list[str]:
        """Return what `closed` does of other documents than these, looking further if the pool holds none."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """One look at one block.

    Attributes:
        round: 0 for the first pass, 1 for the first re-scan, ...
        chunk_id: Which block.
        gate_probability: In [0, 1].
        opened: Whether the reasoner is to read it now.
    """

    round: int
    chunk_id: str
    gate_probability: float
    opened: bool


def scan(pool: Pool, config: ScanConfig, gate: GateConfig) -> Iterator[Decision]:
    """Yield decisions by the configured schedule, until `max_open` blocks are open."""
    if config.top_k is not None:
        yield from exact(pool, top_k=config.top_k, max_rounds=config.max_rounds)
        return
    opened = 0
    for decision in _SCHEDULES[config.schedule](pool, config, gate):
        yield decision
        opened += decision.opened
        if opened >= config.max_open:
            return


def sequential(pool: Pool, config: ScanConfig, gate: GateConfig) -> Iterator[Decision]:
    """Look at one block after the other, once: the paper's order."""
    seen: set[str] = set()
    while ahead := pool.closed(seen):
        probability = pool.score(ahead[:1])[0]
        seen.add(ahead[0])
        yield Decision(0, ahead[0], probability, probability > gate.threshold)


def lookahead(
    pool: Pool, config: ScanConfig, gate: GateConfig, *, round: int = 0, opened: Collection[str] = ()
) -> Iterator[Decision]:
    """Take the decisions of `sequential`, scoring a batch of blocks at a time; blocks open before are passed over."""
    seen = set(opened)
    while ahead := pool.closed(seen)[: gate.batch_size]:
        for chunk_id, scored in zip(ahead, pool.score(ahead), strict=True):
            near = abs(scored - gate.threshold) <= gate.rescore_margin
            probability = pool.score([chunk_id])[0] if near else scored
            passes = probability > gate.threshold
            seen.add(chunk_id)
            yield Decision(round, chunk_id, probability, passes)
            if passes:
                break  # the notes have changed: the other scores of this batch are stale


def rescan(pool: Pool, config: ScanConfig, gate: GateConfig) -> Iterator[Decision]:
    """Repeat `lookahead` over the refused blocks until a round opens nothing.

    Deviation from the paper, which never looks back: its largest class of errors is evidence that was
    refused before its bridge was known (arXiv:2602.08382, error analysis).
    """
    opened: set[str] = set()
    for round in range(config.max_rounds):
        before = len(opened)
        for decision in lookahead(pool, config, gate, round=round, opened=opened):
            yield decision
            if decision.opened:
                opened.add(decision.chunk_id)
        if len(opened) == before:
            return


def best_first(pool: Pool, config: ScanConfig, gate: GateConfig) -> Iterator[Decision]:
    """Open the most probable block until none passes, looking again at all that are left.

    Deviation from the paper, as for `rescan`; here a block that only seems to matter early on can lose to a better one.
    """
    opened: set[str] = set()
    looks = config.max_looks or config.max_open + 1
    for round in range(looks):
        left = pool.closed(opened)
        probabilities = pool.weigh(left, 1)
        # the first of equals
        best = max(left, key=probabilities.__getitem__, default=None)
        passes = best is not None and probabilities[best] > gate.threshold
        if best is not None and passes:
            opened.add(best)
            yield Decision(round, best, probabilities.pop(best), opened=True)
        if not passes or round == looks - 1:
            for chunk_id, probability in probabilities.items():
                yield Decision(round, chunk_id, probability, opened=False)
            return


def exact(pool: Pool, *, top_k: int, max_rounds: int) -> Iterator[Decision]:
    """Open exactly `top_k` blocks, or all if there are fewer: in each round the best under the current notes."""
    opened: set[str] = set()
    wanted = min(top_k, len(pool.closed(opened)))
    rounds = min(max_rounds, wanted)
    for round in range(rounds):
        left = pool.closed(opened)
        share = math.ceil((wanted - len(opened)) / (rounds - round))
        probabilities = pool.weigh(left, share)
        # the first of equals: sorting is stable
        for best in sorted(left, key=probabilities.__getitem__, reverse=True)[:share]:
            opened.add(best)
            yield Decision(round, best, probabilities.pop(best), opened=True)
        if len(opened) == wanted:
            for chunk_id, probability in probabilities.items():
                yield Decision(round, chunk_id, probability, opened=False)


def second_look(pool: Pool, config: ScanConfig, *, opened: Collection[str], round: int) -> Decision | None:
    """Return the opening of the best closed block after an answer was not found, if there is to be one.

    Deviation from the paper, which takes the reasoner's refusal as the last word: a gate's threshold costs most where
    the last hop is named by nothing that was read so far, and the reasoner is the first to notice.

    Args:
        pool: What may be opened.
        config: How probable it must be, and how many blocks may be open.
        opened: Which are.
        round: The decision's.
    """
    if config.second_look is None or config.top_k is not None or len(opened) >= config.max_open:
        return None
    left = pool.closed(opened)
    probabilities = pool.weigh(left, 1)
    best = max(left, key=probabilities.__getitem__, default=None)
    if best is None or probabilities[best] <= config.second_look:
        return None
    return Decision(round, best, probabilities[best], opened=True)


def filling(steps: Sequence[Step], sizes: Mapping[str, int], config: ScanConfig) -> Iterator[Decision]:
    """Yield the opening of the most probable blocks left, as judged so far, whose texts fit beside the open ones.

    Deviation from the paper, whose reasoner reads only what passes the gate: a threshold leaves out a fifth of the
    evidence that the same probabilities put among the best five.

    Args:
        steps: What was decided.
        sizes: Tokens of each block's text, by chunk id.
        config: How probable they must be, and how many tokens and blocks may be open.
    """
    latest = {step.chunk_id: step for step in steps}
    opened = {step.chunk_id for step in steps if step.opened}
    if config.fill_tokens is None or config.top_k is not None:
        return
    tokens = sum(sizes[chunk_id] for chunk_id in opened)
    left = sorted(latest.keys() - opened, key=lambda chunk_id: -latest[chunk_id].gate_probability)
    for chunk_id in left[: max(0, config.max_open - len(opened))]:
        tokens += sizes[chunk_id]
        if tokens > config.fill_tokens or latest[chunk_id].gate_probability <= config.fill_above:
            return
        yield Decision(steps[-1].round, chunk_id, latest[chunk_id].gate_probability, opened=True)


def best_elsewhere(
    pool: DocumentPool, opened: Collection[str], doc_ids: Collection[str], *, round: int
) -> Decision | None:
    """Return the opening of the most probable block of another document; `None` if there is no such block.

    Args:
        pool: What may be opened.
        opened: Which are.
        doc_ids: Documents that are passed over.
        round: The decision's.
    """
    left = pool.elsewhere(opened, doc_ids)
    probabilities = pool.weigh(left, 1)
    best = max(left, key=probabilities.__getitem__, default=None)
    return None if best is None else Decision(round, best, probabilities[best], opened=True)


_SCHEDULES: dict[str, Callable[[Pool, ScanConfig, GateConfig], Iterator[Decision]]] = {
    "sequential": sequential,
    "lookahead": lookahead,
    "rescan": rescan,
    "best_first": best_first,
}
