"""What Ray adds to an ingest: two of its workers against two plain processes, each a shard at a time.

`RAY_worker_niceness=0 python benchmarks/ray_overhead.py [--chunks 320] [--model default|tiny]`

Both load the model in each worker and write the same shards. Ray is started before the clock. Prints seconds on the
wall, which mean something on a machine that does nothing else, and of processors, of all processes that were started.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from memrecall_kv.distributed import ingest_ray
from memrecall_kv.distributed.ray_ingest import by_shard
from memrecall_kv.distributed.shard_writer import Row, ShardWriter, from_row
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Document

SHARDS = 2
WORDS = "harbour ledger captain cargo season letter contract village engine garden record signal".split()
MODELS: dict[str, Callable[[], MemRecall]] = {"default": MemRecall.from_pretrained, "tiny": tiny_memory}


class ProcessorTime:
    """Seconds that processes below this one take while the `with` block runs; those of it itself are not counted."""

    def __enter__(self) -> ProcessorTime:
        self._seen, self._ended = dict[int, float](), threading.Event()
        self._before = self._look()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.seconds = sum(taken - self._before.get(pid, 0.0) for pid, taken in self._seen.items())

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self._seen |= self._look()
        self._seen |= self._look()

    def _look(self) -> dict[int, float]:
        parents, taken = dict[int, int](), dict[int, float]()
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            pid = int(place.parent.name)
            parents[pid] = int(fields[1])
            taken[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return {pid: taken[pid] for pid in parents if self._is_below(pid, parents)}

    def _is_below(self, pid: int, parents: dict[int, int]) -> bool:
        while (pid := parents.get(pid, 0)) > 1:
            if pid == os.getpid():
                return True
        return False


def texts(chunks: int, memory: MemRecall) -> list[Document]:
    """Return documents of four chunks each, about, and in all so many at least."""
    made: list[Document] = []
    held = 0
    while held < chunks:
        number = len(made)
        words = (WORDS[(number * 7 + place * (1 + number % 5)) % len(WORDS)] for place in range(4096))
        text, size = f"Report {number}. ", 4 * memory.config.chunking.chunk_tokens - 8
        while len(memory.backbone.encode(text)) < size:
            text += " ".join(next(words) for _ in range(8)) + ". "
        made.append(Document(f"report {number}", text))
        held += len(memory.chunk(made[-1]))
    return made


def write(load: Callable[[], MemRecall], path: Path, number: int, rows: list[Row]) -> None:
    """Write one shard, in a process of its own, with as many threads as a worker of Ray's has."""
    torch.set_num_threads(1)
    ShardWriter(load, path, SHARDS).write(number, map(from_row, rows))


def plainly(load: Callable[[], MemRecall], path: Path, documents: list[Document]) -> None:
    """Write all shards, each in a process."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=write, args=(load, path, number, rows))
        for number, rows in enumerate(by_shard(documents, SHARDS))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=320)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    given = parser.parse_args()
    import ray

    load = MODELS[given.model]
    memory = load()
    documents = texts(given.chunks, memory)
    chunks = sum(len(memory.chunk(document)) for document in documents)
    ray.init(num_cpus=SHARDS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    ways: dict[str, Callable[[Path], object]] = {
        "plain": lambda path: plainly(load, path, documents),
        "ray": lambda path: ingest_ray(documents, path, shards=SHARDS, load=load, workers=SHARDS),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, ingest in ways.items():
            began = time.perf_counter()
            with ProcessorTime() as taken:
                ingest(Path(folder) / name)
            wall = time.perf_counter() - began
            print(f"{name:<6} {chunks} chunks: {wall:.1f} s on the wall, {taken.seconds:.1f} s of processors")
    ray.shutdown()


if __name__ == "__main__":
    main()
