"""A Ray Serve application of the shards of a bank: gates beside their blocks, and readers that ask all of them.

A reader walks through the bank as one process does (`recall/loop.py`): it finds candidates by the words of all shards,
has each judged by a gate of its shard, and reads what is opened. So a merge is one walk over all candidates, and its
decisions are those of the shards opened as one.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, model_validator

from memrecall_kv.bank.shards import ShardedBank, shards_in
from memrecall_kv.config import Config, check_count
from memrecall_kv.errors import InputError, MemRecallError, MissingDependencyError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.blocks import BlockReader
from memrecall_kv.recall.relevance import judge_of
from memrecall_kv.recall.resident import ResidentBlocks
from memrecall_kv.recall.stages import Stages
from memrecall_kv.types import Answer, Chunk, Done, Event, Opened, Recall, Where, WorkingMemory

_ANSWER = TypeAdapter(Answer)
_BAD_REQUEST = 400


class Replicas(Config):
    """How many processes do one thing, and what each of them takes.

    Attributes:
        least: Replicas that are there without any question.
        most: Replicas under load; Ray adds and removes them between the two.
        target: Questions at once in a replica, above which Ray adds another one.
        upscale_delay_s: Seconds of such load before it does.
        downscale_delay_s: Seconds of less load before it removes one.
        num_cpus: Processors that each takes.
        num_gpus: Accelerators that each takes.
    """

    least: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1)
    target: int = Field(default=2, ge=1)
    upscale_delay_s: float = Field(default=30.0, ge=0.0)
    downscale_delay_s: float = Field(default=600.0, ge=0.0)
    num_cpus: float = Field(default=1.0, ge=0.0)
    num_gpus: float = Field(default=0.0, ge=0.0)

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.most < self.least:
            raise ValueError(f"expected most to be at least {self.least}, got {self.most}")
        return self

    def options(self, name: str) -> dict[str, Any]:
        """Return what Ray is told of a deployment."""
        scaled = {
            "min_replicas": self.least,
            "max_replicas": self.most,
            "target_ongoing_requests": self.target,
            "upscale_delay_s": self.upscale_delay_s,
            "downscale_delay_s": self.downscale_delay_s,
        }
        actor = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        return {"name": name, "autoscaling_config": scaled, "ray_actor_options": actor}


def ray_app(
    path: str | Path,
    *,
    load: Callable[[], MemRecall] = MemRecall.from_pretrained,
    gates: Replicas | None = None,
    readers: Replicas | None = None,
) -> Any:
    """Return an application for `ray.serve.run`: a deployment of gates for each shard, and one of readers.

    Its handle has the methods of `ShardReader`. Over HTTP it takes a POST of `question` and `top_k`, in JSON, and
    returns an `Answer` in JSON. It asks for no key.

    Args:
        path: A directory of shards that all machines reach, as `ingest_ray` leaves it.
        load: Makes the pipeline of a replica; `functools.partial(MemRecall.from_pretrained, ...)` names another one.
        gates: Replicas of each shard; one if left out.
        readers: Replicas that take questions; one if left out.

    Raises:
        BankFormatError: If a shard is missing.
        InputError: If there are no shards.
        MissingDependencyError: If the extra `ray` is not installed.
    """
    serve = _ray_serve()
    gates, readers, folder = gates or Replicas(), readers or Replicas(), Path(path).absolute()
    shards = shards_in(folder)
    if not shards:
        raise InputError(f"Expected a directory of shards, got {path}.", "Fill one with ingest_ray.")
    bound = {
        shard.name: serve.deployment(ShardGate, **gates.options(f"gate-{shard.name}")).bind(load, shard)
        for shard in shards
    }
    return serve.deployment(ShardReader, **readers.options("reader")).bind(load, folder, bound)


class ShardGate:
    """Judges the blocks of one shard.

    Args:
        load: Makes the pipeline.
        path: The shard.
    """

    def __init__(self, load: Callable[[], MemRecall], path: Path) -> None:
        self._memory = load()
        self._bank = self._memory.open_bank(path, read_only=True)
        self._resident = ResidentBlocks(self._memory.config.gate.resident_bytes)

    def score(
        self, question: str, notes: WorkingMemory, chunks: Sequence[Chunk], at_a_glance: bool = False
    ) -> list[float]:
        """Return the gate's probabilities of chunks, in order; raises as `BlockReader.read`."""
        parts, backbone, made = self._memory.parts, self._memory.backbone, self._bank.fingerprint
        compressor, layers = parts.compressor_for(made), parts.layers_of(made)
        blocks = BlockReader(self._bank, compressor, backbone, Stages(), self._resident, layers)
        judge = judge_of(parts.gate, blocks)
        return backbone.scheduler.call(lambda: judge(question, notes, chunks, at_a_glance))


class ShardGates:
    """Has chunks judged where they are, all shards at once.

    Args:
        bank: Says where a chunk is.
        gates: A handle for each shard, by its directory's name.
    """

    def __init__(self, bank: ShardedBank, gates: Mapping[str, Any]) -> None:
        self._bank, self._gates = bank, gates

    def __call__(
        self, question: str, notes: WorkingMemory, chunks: Sequence[Chunk], at_a_glance: bool = False
    ) -> list[float]:
        """Return the gate's probabilities, in order; see `Judge`."""
        places: dict[str, list[int]] = {}
        for place, chunk in enumerate(chunks):
            places.setdefault(self._bank.shard(chunk.doc_id).path.name, []).append(place)
        asked = {
            name: self._gates[name].score.remote(question, notes, [chunks[place] for place in its], at_a_glance)
            for name, its in places.items()
        }
        found = {
            place: probability
            for name, response in asked.items()
            for place, probability in zip(places[name], response.result(), strict=True)
        }
        return [found[place] for place in range(len(chunks))]


class ShardReader:
    """Answers questions from all shards.

    Args:
        load: Makes the pipeline.
        path: The directory of the shards.
        gates: A handle for each, by its directory's name.
    """

    def __init__(self, load: Callable[[], MemRecall], path: Path, gates: Mapping[str, Any]) -> None:
        self._memory = load()
        bank = self._memory.open_bank(path, read_only=True)
        if not isinstance(bank, ShardedBank):
            raise InputError(f"Expected shards in {path}, got one bank.", "Start the application anew.")
        self._bank, self._judge = bank, ShardGates(bank, gates)

    async def ask(self, question: str, *, top_k: int | None = None, where: Where | None = None) -> Answer:
        """Return the answer to a question; arguments and errors as of `MemRecall.stream`."""
        *_, last = await asyncio.to_thread(lambda: list(self._events(question, top_k, where, is_answered=True)))
        if not isinstance(last, Done):
            raise TypeError("the last event of a stream is Done")
        return last.answer

    async def recall(
        self, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> tuple[Recall, ...]:
        """Return the chunks a question opens, without an answer; arguments as in `ask`."""
        events = await asyncio.to_thread(lambda: list(self._events(question, top_k, where, is_answered=False)))
        return tuple(event.recall for event in events if isinstance(event, Opened))

    async def __call__(self, request: Any) -> Any:
        """Answer a request over HTTP; a mistake of the client's is told with what to do about it."""
        from starlette.responses import JSONResponse, Response  # comes with Ray Serve

        try:
            asked = await request.json()
            if not isinstance(asked, dict) or not isinstance(asked.get("question"), str):
                raise InputError("Expected a JSON object with a question.", 'As {"question": "Who approves trips?"}.')
            answer = await self.ask(asked["question"], top_k=check_count("top_k", asked.get("top_k")))
        except MemRecallError as error:
            return JSONResponse({"error": error.message, "hint": error.hint}, _BAD_REQUEST)
        except ValueError as error:
            return JSONResponse({"error": f"Expected JSON: {error}.", "hint": "Send a JSON object."}, _BAD_REQUEST)
        return Response(_ANSWER.dump_json(answer), media_type="application/json")

    def _events(
        self, question: str, top_k: int | None, where: Where | None, *, is_answered: bool
    ) -> Generator[Event, None, None]:
        walk = self._memory.begin(self._bank, question, top_k=top_k, where=where)
        walk.relevance.judge, walk.is_answered = self._judge, is_answered
        yield from walk.events()
        if is_answered:
            yield from self._memory.conclude(walk)


def _ray_serve() -> Any:
    try:
        return importlib.import_module("ray.serve")
    except ImportError as error:
        raise MissingDependencyError("Ray Serve is not installed.", 'Run: pip install "memrecall-kv[ray]"') from error
