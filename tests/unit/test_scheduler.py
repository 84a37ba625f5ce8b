import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from memrecall_kv.backbone.scheduler import Scheduler
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Document
from patience import PATIENCE


def test_many_threads_share_one_and_the_main_thread_keeps_its_own():
    scheduler, main, all_there = Scheduler(), threading.get_ident(), threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        callers = list(pool.map(lambda _: (all_there.wait(PATIENCE), threading.get_ident())[1], range(8)))
        ran_in = set(pool.map(lambda _: scheduler.call(threading.get_ident), range(32)))
    assert len(set(callers)) == 8
    assert len(ran_in) == 1
    assert not ran_in & {main, *callers}
    assert scheduler.call(threading.get_ident) == main


def test_one_call_at_a_time():
    scheduler, inside, most = Scheduler(), [0], [0]

    def call():
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.001)
        inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(scheduler.call, call) for _ in range(40)]
        for _ in range(20):
            scheduler.call(call)
        for one in asked:
            one.result()
    assert most == [1]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_results_and_errors_reach_the_caller_and_a_turn_may_hold_another(elsewhere):
    scheduler = Scheduler()

    def ask():
        assert scheduler.call(lambda: scheduler.call(lambda: 7)) == 7
        with pytest.raises(ZeroDivisionError):
            scheduler.call(lambda: 1 // 0)
        return list(scheduler.each(iter("abc")))

    with ThreadPoolExecutor(1) as pool:
        assert (pool.submit(ask).result() if elsewhere else ask()) == ["a", "b", "c"]


def test_between_two_steps_others_have_their_turn():
    scheduler = Scheduler()
    steps = scheduler.each(iter(range(3)))
    assert next(steps) == 0
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scheduler.call, lambda: "mine").result(PATIENCE) == "mine"
    assert list(steps) == [1, 2]


def test_however_many_threads_ask_one_runs_the_model_and_holds_blocks(tmp_path, monkeypatch):
    seen, holders = set(), set()

    def score(question, memory, block):
        seen.add(threading.get_ident())
        return 0.9

    memory = tiny_memory(gate=ScriptedGate(score), reasoner=ScriptedReasoner({}, lambda question, notes: "Dana."))
    with memory.open_bank(tmp_path / "b") as bank:
        memory.ingest(bank, [Document("travel", "Dana approves trips.")])
        read = bank.blocks
        monkeypatch.setattr(
            bank, "blocks", lambda *given, **named: (holders.add(threading.get_ident()), read(*given, **named))[1]
        )
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: memory.ask(bank, f"Who {number}?").text, range(16)))
    assert answers == ["Dana."] * 16
    assert len(seen) == 1
    assert holders == seen
    assert threading.get_ident() not in seen
