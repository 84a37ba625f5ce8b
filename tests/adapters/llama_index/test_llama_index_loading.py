import asyncio
import threading

import pytest
from llama_index.core.schema import NodeWithScore
from memrecall_kv.errors import FingerprintMismatchError, InputError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_backbone, tiny_memory
from patience import PATIENCE

from llama_index_memrecall import MemRecallPostprocessor, MemRecallQueryEngine

QUESTION = "Who approves trips?"


def test_a_model_is_loaded_by_name_when_it_is_first_needed(documents, nodes, checkpoint, tmp_path):
    first = MemRecallQueryEngine.from_documents(documents, bank=tmp_path / "bank", name_or_path=checkpoint, top_k=2)
    again = MemRecallQueryEngine.from_bank(tmp_path / "bank", name_or_path=checkpoint, top_k=2)
    assert again.query(QUESTION).source_nodes == first.query(QUESTION).source_nodes
    gate = MemRecallPostprocessor(name_or_path=checkpoint, top_n=1)
    assert len(gate.postprocess_nodes([NodeWithScore(node=node) for node in nodes], query_str=QUESTION)) == 1
    for opened in (first, again, gate):
        opened.close()


async def test_the_loop_goes_on_while_a_model_is_loaded(documents, checkpoint, tmp_path, monkeypatch):
    entered, go, load = threading.Event(), threading.Event(), MemRecall.from_pretrained

    def waiting(*arguments, **options):
        entered.set()
        assert go.wait(PATIENCE)
        return load(*arguments, **options)

    MemRecallQueryEngine.from_documents(documents, bank=tmp_path / "bank", name_or_path=checkpoint).close()
    engine = MemRecallQueryEngine.from_bank(tmp_path / "bank", name_or_path=checkpoint, top_k=1)
    monkeypatch.setattr(MemRecall, "from_pretrained", waiting)
    asking = asyncio.create_task(engine.aquery(QUESTION))
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    assert not asking.done()
    go.set()
    assert len((await asking).source_nodes) == 1
    engine.close()


def test_a_model_that_does_not_exist_is_the_cores_error(tmp_path):
    with pytest.raises(InputError):
        MemRecallQueryEngine.from_bank(tmp_path, name_or_path=str(tmp_path / "nothing")).query(QUESTION)


def test_a_bank_made_by_another_model_is_refused(documents, memory, tmp_path):
    MemRecallQueryEngine.from_documents(documents, bank=tmp_path / "bank", memory=memory).close()
    other = tiny_memory(backbone=tiny_backbone(seed=1))
    with pytest.raises(FingerprintMismatchError):
        MemRecallQueryEngine.from_bank(tmp_path / "bank", memory=other).query(QUESTION)


@pytest.mark.parametrize("route", ["aquery", "aretrieve", "apostprocess_nodes"])
async def test_the_loop_goes_on_while_the_gate_reads(documents, nodes, waiting, route):
    memory, gate, _ = waiting
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory)
    processor = MemRecallPostprocessor(memory=memory)
    found = [NodeWithScore(node=node) for node in nodes]
    work = {
        "aquery": lambda: engine.aquery(QUESTION),
        "aretrieve": lambda: engine.aretrieve(QUESTION),
        "apostprocess_nodes": lambda: processor.apostprocess_nodes(found, query_str=QUESTION),
    }
    task = asyncio.create_task(work[route]())
    assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
    assert not task.done()
    gate.go.set()
    await task
    engine.close()
    processor.close()


async def test_cancelling_a_question_stops_the_work(documents, waiting):
    memory, gate, answered = waiting
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory)
    task = asyncio.create_task(engine.aquery(QUESTION))
    assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.go.set()
    await engine.aquery("When is lunch?")
    assert answered == ["When is lunch?"]
    engine.close()
