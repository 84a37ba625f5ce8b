import asyncio

import pytest
from langchain_core.load import dumps
from memrecall_kv.errors import FingerprintMismatchError, InputError
from memrecall_kv.testing import tiny_backbone, tiny_memory

from langchain_memrecall import MemRecallRetriever, MemRecallRunnable

QUESTION = "Who approves trips?"


def test_a_saved_runnable_loads_its_model_by_name_when_it_is_first_asked(documents, checkpoint, tmp_path):
    ask = MemRecallRunnable.from_documents(documents, bank=tmp_path / "bank", name_or_path=checkpoint, top_k=2)
    again = MemRecallRunnable.load(dumps(ask))
    assert again.invoke(QUESTION)["context"] == ask.invoke(QUESTION)["context"]
    retriever = MemRecallRetriever(bank=str(tmp_path / "bank"), name_or_path=checkpoint, k=2)
    assert MemRecallRetriever.load(dumps(retriever)).invoke(QUESTION) == ask.invoke(QUESTION)["context"]
    ask.close()


def test_a_model_that_does_not_exist_is_the_cores_error(tmp_path):
    with pytest.raises(InputError):
        MemRecallRetriever(bank=tmp_path, name_or_path=str(tmp_path / "nothing")).invoke(QUESTION)


def test_a_bank_made_by_another_model_is_refused(bank):
    other = tiny_memory(backbone=tiny_backbone(seed=1))
    with pytest.raises(FingerprintMismatchError):
        MemRecallRetriever(bank=bank.path, memory=other).invoke(QUESTION)


async def first_of(stream):
    return [chunk async for chunk in stream]


@pytest.mark.parametrize("route", ["ainvoke", "astream", "retriever"])
async def test_the_loop_goes_on_while_the_gate_reads(documents, waiting, meanwhile, tmp_path, route):
    memory = waiting[0]
    ask = MemRecallRunnable.from_documents(documents, bank=tmp_path / "bank", memory=memory)
    retriever = MemRecallRetriever(bank=tmp_path / "bank", memory=memory)
    work = {
        "ainvoke": lambda: ask.ainvoke(QUESTION),
        "astream": lambda: first_of(ask.astream(QUESTION)),
        "retriever": lambda: retriever.ainvoke(QUESTION),
    }
    assert await meanwhile(work[route]())
    ask.close()
    retriever.close()


async def test_cancelling_a_retriever_stops_the_scan(documents, waiting, cancelled, tmp_path):
    memory, gate, _ = waiting
    scored = []
    retriever = MemRecallRetriever.from_documents(documents, bank=tmp_path / "bank", memory=memory, k=4)
    score = gate.score
    gate.score = lambda *arguments: scored.append(1) or score(*arguments)
    await cancelled(retriever.ainvoke(QUESTION))
    await asyncio.to_thread(retriever.invoke, "When is lunch?", k=1)
    assert len(scored) == 2
    retriever.close()


@pytest.mark.parametrize("route", ["ainvoke", "abatch"])
async def test_cancelling_a_question_or_a_batch_stops_the_work(documents, waiting, cancelled, tmp_path, route):
    memory, _, answered = waiting
    ask = MemRecallRunnable.from_documents(documents, bank=tmp_path / "bank", memory=memory)
    await cancelled(ask.ainvoke(QUESTION) if route == "ainvoke" else ask.abatch([QUESTION, "What is broken?"]))
    await ask.ainvoke("When is lunch?")
    assert answered == ["When is lunch?"]
    ask.close()
