"""Questions asked at the same time: the same answers as one by one, in fewer forwards, and each may leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from memrecall_kv import Answer, Document, GateConfig, MemoryBank, MemRecall, MemRecallConfig, ReasonerConfig
from memrecall_kv.backbone.scheduler import Scheduler
from memrecall_kv.config import ChunkingConfig, ScanConfig
from memrecall_kv.errors import InputError
from memrecall_kv.testing import ScriptedGate, tiny_backbone, tiny_memory
from memrecall_kv.types import Token
from patience import PATIENCE
from turns import held, wait_until, waiting_in

QUESTIONS = [f"Who does job {'very ' * number}{number}?" for number in range(8)]
TEXTS = ["Dana approves trips.", "Lunch is at noon.", "Erik does the first job, and nobody the second."]


def memory_of(seed: int, **settings: object) -> MemRecall:
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        gate=GateConfig(threshold=0.0),
        scan=ScanConfig(top_k=2),
        reasoner=ReasonerConfig(**{"max_note_tokens": 6, "max_answer_tokens": 12, **settings}),
    )
    return tiny_memory(config, backbone=tiny_backbone(seed=seed), gate=ScriptedGate(lambda *_: 0.9))


@contextmanager
def filled(memory: MemRecall, place: Path, texts: list[str] = TEXTS) -> Iterator[MemoryBank]:
    with memory.open_bank(place) as bank:
        memory.ingest(bank, [Document(str(number), text) for number, text in enumerate(texts)])
        yield bank


@contextmanager
def counted(memory: MemRecall) -> Iterator[list[int]]:
    """Fill a list with the number of tokens of each forward."""
    forwards: list[int] = []
    hook = memory.backbone.kv.base.register_forward_pre_hook(
        lambda module, args, kwargs: forwards.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        yield forwards
    finally:
        hook.remove()


def told(answer: Answer) -> Answer:
    """Return an answer without what the clock says."""
    return replace(answer, usage=replace(answer.usage, seconds=0.0, stages=()))


@pytest.mark.parametrize("readback", ["answer", "off"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_answers_are_those_of_one_by_one_in_fewer_forwards(tmp_path: Path, seed: int, readback: str) -> None:
    memory = memory_of(seed, readback=readback)
    with filled(memory, tmp_path / "bank") as bank:
        with counted(memory) as alone:
            expected = [told(memory.ask(bank, question)) for question in QUESTIONS]
        with counted(memory) as together, held(memory.backbone.scheduler, 8):
            assert [told(answer) for answer in memory.ask_many(bank, QUESTIONS)] == expected
    assert any(answer.working_memory.notes for answer in expected)
    assert len(together) < len(alone) / 4


def test_two_banks_and_streams_share_forwards(tmp_path: Path) -> None:
    memory = memory_of(0, max_answer_tokens=48)

    def streamed(bank: MemoryBank, question: str) -> list[str]:
        return [event.text for event in memory.stream(bank, question) if isinstance(event, Token)]

    with filled(memory, tmp_path / "one") as one, filled(memory, tmp_path / "two", TEXTS[::-1]) as two:
        asked = [(bank, question) for question in QUESTIONS[:4] for bank in (one, two)]
        with counted(memory) as alone:
            expected = [streamed(*each) for each in asked]
        with counted(memory) as together, ThreadPoolExecutor(8) as pool, held(memory.backbone.scheduler, 8):
            found = list(pool.map(lambda each: streamed(*each), asked))
    assert found == expected
    assert max(map(len, found)) > 1
    assert len(together) < len(alone) / 4


def test_one_question_alone_makes_the_forwards_it_would_make_anyway(tmp_path: Path) -> None:
    memory = memory_of(0)
    with filled(memory, tmp_path / "bank") as bank, counted(memory) as forwards:
        usage = memory.ask(bank, QUESTIONS[0]).usage
        assert sum(forwards) <= usage.prompt_tokens + usage.generated_tokens
        assert len(forwards) <= 3 + usage.generated_tokens
        with counted(memory) as again:
            memory.ask_many(bank, QUESTIONS[:1])
    assert again == forwards[: len(again)]


def test_a_stream_that_is_closed_leaves_the_others(tmp_path: Path) -> None:
    memory = memory_of(0)
    with filled(memory, tmp_path / "bank") as bank:
        expected = [told(memory.ask(bank, question)) for question in QUESTIONS]

        def first_piece(question: str) -> None:
            with closing(memory.stream(bank, question)) as events:
                next(event for event in events if isinstance(event, Token))

        with ThreadPoolExecutor(8) as pool, held(memory.backbone.scheduler, 8):
            leaving = [pool.submit(first_piece, question) for question in QUESTIONS[::2]]
            staying = [pool.submit(memory.ask, bank, question) for question in QUESTIONS[1::2]]
            for each in leaving:
                each.result(PATIENCE)
            assert [told(each.result(PATIENCE)) for each in staying] == expected[1::2]
        assert memory.parts.reasoner._rows._open == []  # type: ignore[attr-defined]  # none is read along any more


def test_an_error_is_that_of_the_first_question_that_has_one(tmp_path: Path) -> None:
    memory = memory_of(0)
    with filled(memory, tmp_path / "bank") as bank:
        with pytest.raises(InputError, match="question"):
            memory.ask_many(bank, [*QUESTIONS, " ", *QUESTIONS])
        with pytest.raises(InputError, match="at_once"):
            memory.ask_many(bank, QUESTIONS, at_once=0)
        assert memory.ask_many(bank, []) == []
        assert [found.trace.question for found in memory.ask_many(bank, QUESTIONS, at_once=2)] == QUESTIONS


def test_turns_come_in_the_order_they_were_asked_for() -> None:
    scheduler, order = Scheduler(), []
    with held(scheduler, 4):
        for number in range(4):
            threading.Thread(target=scheduler.call, args=(lambda number=number: order.append(number),)).start()
            wait_until(lambda number=number: waiting_in(scheduler) >= min(number + 1, 3))
    scheduler.call(lambda: order.append("main"))
    assert order == [0, 1, 2, 3, "main"]


def interrupt_when(is_so: Callable[[], bool]) -> None:
    """Press Ctrl-C when something is so."""

    def press() -> None:
        wait_until(is_so)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=press).start()


def test_ctrl_c_stops_many_questions_and_who_waits_for_a_turn_at_once(tmp_path: Path) -> None:
    judging, free, judged = threading.Event(), threading.Event(), []

    def script(question: str, *_: object) -> float:
        judging.set()
        free.wait(PATIENCE)
        judged.append(question)
        return 0.9

    memory = tiny_memory(gate=ScriptedGate(script))
    scheduler = memory.backbone.scheduler
    with filled(memory, tmp_path / "bank", TEXTS[:1]) as bank:
        interrupt_when(judging.is_set)
        with pytest.raises(KeyboardInterrupt):
            memory.ask_many(bank, QUESTIONS)
        assert judged == []
        interrupt_when(lambda: len(scheduler._turns) == 2)
        with pytest.raises(KeyboardInterrupt):
            scheduler.call(lambda: judged.append("main"))
        free.set()
        assert scheduler.call(lambda: "mine") == "mine"
        wait_until(lambda: waiting_in(scheduler) == 0)
        assert "main" not in judged
