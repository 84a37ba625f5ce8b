"""What a Ray Serve application of two shards decides is what one process decides that has them open as one."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from memrecall_kv.bank.shards import shard_name
from memrecall_kv.distributed import Replicas, ray_app
from memrecall_kv.distributed.ray_ingest import by_shard
from memrecall_kv.distributed.ray_serving import ShardGates
from memrecall_kv.distributed.shard_writer import from_row
from memrecall_kv.errors import BankFormatError, ConfigError, InputError
from memrecall_kv.filters import Compare, Operator
from shard_samples import QUESTION, SHARDS, load, texts

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1", "localhost"]),
    # as of the other tests that start Ray
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LIGHT = Replicas(num_cpus=0.1)


@pytest.fixture(scope="module")
def memory():
    return load()


@pytest.fixture(scope="module")
def shards(memory, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "all"
    for number, rows in enumerate(by_shard(texts(), SHARDS)):
        with memory.open_bank(folder / shard_name(number, SHARDS)) as bank:
            memory.ingest(bank, map(from_row, rows))
    return folder


@pytest.fixture(scope="module")
def served(ray, shards: Path) -> Iterator[tuple]:
    """A handle of the application, and where it is over HTTP."""
    serve = pytest.importorskip("ray.serve", exc_type=ImportError)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    readers = Replicas(num_cpus=0.1, most=2, target=1, upscale_delay_s=0)
    app = ray_app(shards, load=load, gates=LIGHT, readers=readers)
    try:
        yield serve.run(app, name="shards", route_prefix="/shards"), f"http://127.0.0.1:{port}/shards"
    finally:
        serve.shutdown()


def decided(answer) -> tuple:
    """All that was decided, and the probabilities as far as a batch of other neighbours leaves them the same."""
    steps = [(step.round, step.chunk_id, step.opened, step.note) for step in answer.trace.steps]
    odds = [pytest.approx(step.gate_probability, abs=1e-5) for step in answer.trace.steps]
    return answer.text, answer.found, [each.chunk for each in answer.evidence], answer.working_memory, steps, odds


def posted(url: str, body: object) -> tuple[int, dict]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, sent) as response:  # noqa: S310 - ours
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def test_the_application_decides_as_one_process_with_all_shards(served, memory, shards: Path) -> None:
    handle, url = served
    port, seen = Compare("port", Operator.EQ, 3), set()
    with memory.open_bank(shards, read_only=True) as bank:
        for question in (QUESTION, "What sails at noon to port 4?"):
            for top_k, where in ((None, None), (8, None), (2, port)):
                expected = memory.ask(bank, question, top_k=top_k, where=where)
                got = handle.ask.remote(question, top_k=top_k, where=where).result()
                assert decided(got) == decided(expected)
                seen |= {bank.shard(recall.chunk.doc_id) for recall in expected.evidence}
        assert len(seen) == SHARDS
        recalled = handle.recall.remote(QUESTION, top_k=4).result()
        assert [each.chunk for each in recalled] == [each.chunk for each in memory.recall(bank, QUESTION, top_k=4)]
        answer = memory.ask(bank, QUESTION)
    status, got = posted(url, {"question": QUESTION})
    assert (status, got["text"], got["found"]) == (200, answer.text, answer.found)
    assert [each["chunk"]["doc_id"] for each in got["evidence"]] == [each.chunk.doc_id for each in answer.evidence]
    for wrong in (b"no JSON", {"ask": "Who?"}, {"question": " "}, {"question": "Who?", "top_k": 0}):
        status, got = posted(url, wrong)
        assert (status, "Expected" in got["error"], bool(got["hint"])) == (400, True, True)


def test_each_shard_has_gates_of_its_own(served) -> None:
    from ray import serve

    deployments = serve.status().applications["shards"].deployments
    assert {*deployments} == {"reader", *(f"gate-{shard_name(number, SHARDS)}" for number in range(SHARDS))}
    assert all(sum(each.replica_states.values()) >= 1 for each in deployments.values())


def readers_running() -> int:
    from ray import serve

    states = serve.status().applications["shards"].deployments["reader"].replica_states
    return {str(getattr(state, "value", state)): count for state, count in states.items()}.get("RUNNING", 0)


def test_readers_come_with_the_questions(served, memory, shards: Path) -> None:
    handle, _ = served
    with memory.open_bank(shards, read_only=True) as bank:
        expected = decided(memory.ask(bank, QUESTION))
    until, most = time.monotonic() + 120, readers_running()
    while most < 2 and time.monotonic() < until:
        for response in [handle.ask.remote(QUESTION) for _ in range(8)]:
            assert decided(response.result()) == expected
        most = max(most, readers_running())
    assert most == 2


class Handle:
    """Stands for a gate's handle, and answers where the test is."""

    def __init__(self, name: str, asked: list) -> None:
        self.score, self._name, self._asked = self, name, asked

    def remote(self, question, notes, chunks, at_a_glance):
        self._asked.append((self._name, [chunk.id for chunk in chunks], at_a_glance))
        self._found = [len(chunk.id) / 100 for chunk in chunks]
        return self

    def result(self):
        return self._found


def test_a_chunk_is_judged_by_its_shard_and_put_back_in_its_place(memory, shards: Path) -> None:
    asked: list = []
    names = [shard_name(number, SHARDS) for number in range(SHARDS)]
    with memory.open_bank(shards, read_only=True) as bank:
        chunks = sorted(bank.chunks(), key=lambda chunk: chunk.id)
        judge = ShardGates(bank, {name: Handle(name, asked) for name in names})
        for at_a_glance in (False, True):
            asked.clear()
            assert judge(QUESTION, None, chunks, at_a_glance) == [len(chunk.id) / 100 for chunk in chunks]
            for name, its, glances in asked:
                assert {bank.shard(chunk_id.rpartition("#")[0]).path.name for chunk_id in its} == {name}
                assert glances is at_a_glance
            assert sorted(name for name, *_ in asked) == names


def test_what_cannot_be_served_is_refused(memory, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", exc_type=ImportError)
    memory.open_bank(tmp_path / "bank").close()
    for wrong in (tmp_path / "bank", tmp_path / "nothing"):
        with pytest.raises(InputError, match="directory of shards"):
            ray_app(wrong, load=load)
    (tmp_path / shard_name(0, 2)).mkdir()
    with pytest.raises(BankFormatError, match="Expected 2 shards"):
        ray_app(tmp_path, load=load)
    with pytest.raises(ConfigError, match="at least 3"):
        Replicas(least=3, most=2)
    options = Replicas(least=2, most=5, target=3, num_gpus=1).options("reader")
    scaled = {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 3}
    assert options["autoscaling_config"] == scaled | {"upscale_delay_s": 30.0, "downscale_delay_s": 600.0}
    assert options["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 1.0}
