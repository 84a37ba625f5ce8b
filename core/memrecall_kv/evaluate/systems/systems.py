"""The systems by name, and a way to change their settings: `NAME:KEY=VALUE,KEY=VALUE`.

A key with a dot is one of the pipeline's settings, as `scan.schedule=sequential`; another one is the system's own, as
`k=2` of a retriever. So every ablation of schedule, compressor, ratio or readback has a name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from memrecall_kv.config import MemRecallConfig, fitting_compressor
from memrecall_kv.errors import ConfigError, InputError
from memrecall_kv.evaluate.systems.chunk_reading import ChunkReading, WindowConfig
from memrecall_kv.evaluate.systems.full_context import FullContext
from memrecall_kv.evaluate.systems.memagent import LoopConfig, MemAgentLoop, NoteLoop
from memrecall_kv.evaluate.systems.no_context import NoContext
from memrecall_kv.evaluate.systems.ours import VARIANTS, MemRecallSystem
from memrecall_kv.evaluate.systems.rankers import Bm25Ranker, DenseRanker, FusedRanker, LikelihoodRanker
from memrecall_kv.evaluate.systems.retrieval import IterationConfig, IterativeRetrieval, Retrieval, RetrievalConfig
from memrecall_kv.evaluate.systems.served import (
    EndpointConfig,
    FullContextConfig,
    ServedBank,
    ServedCompleter,
    ServedFullContext,
    ServedLoopConfig,
)
from memrecall_kv.evaluate.systems.system import System
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.remote.chat import ChatModel

Open: TypeAlias = Callable[[MemRecallConfig | None], MemRecall]
"""Loads the pipeline that is measured, with other settings if they are given."""


@dataclass(frozen=True)
class _Workshop:
    """What a system is built from."""

    open: Open
    settings: dict[str, Any]
    own: dict[str, Any]
    _pipeline: list[MemRecall] = field(default_factory=list)

    def pipeline(
        self, changes: Mapping[str, Any] = MappingProxyType({}), *, fixed: Mapping[str, Any] = MappingProxyType({})
    ) -> MemRecall:
        """Return the pipeline with the settings that were asked for.

        Args:
            changes: Settings by dotted name that differ unless others were asked for.
            fixed: Settings without which the system would not be what it is.
        """
        if not self._pipeline:
            self._pipeline.append(self.open(None))
        changed = {**changes, **self.settings, **fixed}
        base = self._pipeline[0]
        return self.open(_changed(base.config, changed)) if changed else base

    def reader(self) -> MemRecall:
        """Return the pipeline as the systems read with that are not ours: from text."""
        return self.pipeline(fixed={"reasoner.readback": "answer"})

    def whole(self) -> MemRecall:
        """Return the pipeline that reads back as much as its window holds."""
        budget = self.pipeline().backbone.window
        return self.pipeline(fixed={"reasoner.readback": "answer", "reasoner.max_readback_tokens": budget})

    def refuse_own(self) -> None:
        """Refuse settings without a dot, for a system that has none."""
        if self.own:
            raise ConfigError(
                f"Expected only settings with a dot, got {', '.join(self.own)}.", "As scan.schedule=sequential."
            )


def _ours(name: str) -> Callable[[_Workshop], System]:
    def build(shop: _Workshop) -> System:
        shop.refuse_own()
        pipeline = shop.pipeline(VARIANTS[name])
        return MemRecallSystem(pipeline, gated=name != "memrecall-no-gate", defer=name == "memrecall-deferred")

    return build


def _none(shop: _Workshop) -> System:
    shop.refuse_own()
    return NoContext(shop.reader())


def _full(shop: _Workshop) -> System:
    shop.refuse_own()
    return FullContext(shop.whole())


def _noting(shop: _Workshop) -> System:
    return NoteLoop(
        shop.reader(), shop.pipeline(fixed={"reasoner.readback": "off", "bank.layers": "all"}), WindowConfig(**shop.own)
    )


def _fused(shop: _Workshop) -> System:
    config = RetrievalConfig(**shop.own)
    return Retrieval(shop.reader(), FusedRanker([Bm25Ranker(), DenseRanker()], config.depth), config)


def _reranked(shop: _Workshop) -> System:
    config, memory = RetrievalConfig(**shop.own), shop.reader()
    return Retrieval(memory, LikelihoodRanker(Bm25Ranker(), config.depth, memory.backbone), config)


def _served(shop: _Workshop) -> System:
    return ServedBank(EndpointConfig(**shop.own))


def _served_loop(shop: _Workshop) -> System:
    config = ServedLoopConfig(**shop.own)
    return MemAgentLoop(shop.pipeline(), config, ServedCompleter(ChatModel(config.url, config.model)))


SYSTEMS: Mapping[str, Callable[[_Workshop], System]] = {
    **{name: _ours(name) for name in VARIANTS},
    "no-context": _none,
    "full-context": _full,
    "chunk-reading": lambda shop: ChunkReading(shop.whole(), WindowConfig(**shop.own)),
    "memagent": lambda shop: MemAgentLoop(shop.pipeline(), LoopConfig(**shop.own)),
    "memagent-reasoner": _noting,
    "bm25": lambda shop: Retrieval(shop.reader(), Bm25Ranker(), RetrievalConfig(**shop.own)),
    "dense": lambda shop: Retrieval(shop.reader(), DenseRanker(), RetrievalConfig(**shop.own)),
    "bm25-dense": _fused,
    "bm25-likelihood": _reranked,
    "ircot": lambda shop: IterativeRetrieval(shop.reader(), Bm25Ranker(), IterationConfig(**shop.own)),
    "served": _served,
    "served-full-context": lambda shop: ServedFullContext(shop.pipeline(), FullContextConfig(**shop.own)),
    "served-memagent": _served_loop,
}
"""Every system."""


def build_system(spec: str, open: Open) -> System:
    """Return a system.

    Args:
        spec: Its name, and settings after a colon.
        open: Loads the pipeline.

    Raises:
        InputError: If there is no such system, or the settings cannot be read.
        ConfigError: If a setting is unknown or out of range.
    """
    name, settings = parse_system(spec)
    dotted = {key: value for key, value in settings.items() if "." in key}
    own = {key: value for key, value in settings.items() if "." not in key}
    return SYSTEMS[name](_Workshop(open, dotted, own))


def parse_system(spec: str) -> tuple[str, dict[str, Any]]:
    """Return a system's name and its settings; raises as `build_system`."""
    name, colon, listed = spec.partition(":")
    if name not in SYSTEMS:
        raise InputError(f"Expected the name of a system, got {name!r}.", f"Systems: {', '.join(SYSTEMS)}.")
    settings = {}
    for item in listed.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise InputError(f"{spec}: expected KEY=VALUE after the colon, got {item!r}.", "As bm25:k=2.")
        settings[key] = _value(value)
    return name, settings


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _changed(config: MemRecallConfig, changes: Mapping[str, Any]) -> MemRecallConfig:
    data = config.model_dump()
    if "compressor.kind" in changes:
        data["compressor"] = fitting_compressor({**data["compressor"], "kind": changes["compressor.kind"]})
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if not isinstance(data.get(section), dict):
            raise ConfigError(f"{key}: expected a setting of the pipeline.", f"Sections: {', '.join(data)}.")
        data[section][name] = value
    return MemRecallConfig(**data)
