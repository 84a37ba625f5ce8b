"""An agent's long-term memory."""

import asyncio

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from patience import PATIENCE
from pydantic import ValidationError

from llama_index_memrecall import MemRecallMemoryBlock


def said(role, text):
    return ChatMessage(role=role, content=text)


TURNS = [said("user", "My dog is called Rex."), said("assistant", "Nice name!")]
ASKED = [said("user", "What is my dog called?")]
REX = "user: My dog is called Rex.\nassistant: Nice name!"


@pytest.fixture
def block(memory):
    block = MemRecallMemoryBlock(memory=memory, top_k=9)
    yield block
    block.close()


async def test_what_was_put_is_recalled_for_the_latest_user_message(block):
    assert await block.aget(ASKED) == ""
    await block.aput(TURNS)
    assert REX in await block.aget([*ASKED, said("assistant", "Let me think.")])
    assert await block.aget([]) == await block.aget(None) == await block.aget([said("assistant", "Hm.")]) == ""


async def test_the_same_turns_put_twice_are_one_memory(block):
    for _ in range(2):
        await block.aput(TURNS)
    assert (await block.aget(ASKED)).count("Rex.\nassistant") == 1


async def test_sessions_do_not_see_each_other_and_can_be_forgotten(block):
    await block.aput([said("user", "My dog is called Rex.")], session_id="ana")
    await block.aput([said("user", "My dog is called Fido.")], session_id="rui")
    assert "Rex" in await block.aget(ASKED, session_id="ana")
    assert "Fido" not in await block.aget(ASKED, session_id="ana")
    block.forget("ana")
    assert await block.aget(ASKED, session_id="ana") == ""
    assert "Fido" in await block.aget(ASKED, session_id="rui")


async def test_notes_come_before_the_turns(documents):
    memory = tiny_memory(reasoner=ScriptedReasoner({"user: Hi, I am Ana.": "The user is Ana."}, lambda *_: ""))
    block = MemRecallMemoryBlock(memory=memory, top_k=1)
    await block.aput([said("user", "Hi, I am Ana.")])
    assert await block.aget(ASKED) == "- The user is Ana.\n\nuser: Hi, I am Ana."
    block.close()


async def test_short_term_memory_is_refused_where_the_host_says_so(memory):
    block = MemRecallMemoryBlock(memory=memory, accept_short_term_memory=False)
    await block.aput(TURNS, from_short_term_memory=True)
    assert await block.aget(ASKED) == ""
    block.close()


async def test_messages_without_text_are_left_out(block):
    await block.aput([said("user", "  "), ChatMessage(role="assistant", blocks=[])])
    assert await block.aget(ASKED) == ""


async def test_truncation_drops_the_last_memories_first(block):
    assert await block.atruncate("- note\n\nfirst turn\n\nsecond turn", 2) == "- note\n\nfirst turn"
    assert await block.atruncate("- note\n\nfirst turn", 99) is None


async def test_a_kept_bank_remembers_across_processes(memory, tmp_path):
    for _ in range(2):
        block = MemRecallMemoryBlock(memory=memory, bank=tmp_path / "bank", top_k=9)
        if not (tmp_path / "bank").exists():
            await block.aput(TURNS)
        assert REX in await block.aget(ASKED)
        block.close()


async def test_the_hosts_memory_flushes_turns_to_it_and_puts_what_it_recalls_into_the_prompt(block):
    memory = Memory.from_defaults(
        session_id="ana", token_limit=40, chat_history_token_ratio=0.5, token_flush_size=5, memory_blocks=[block]
    )
    for turn in [*TURNS, *[said("user", f"Filler number {number} of the chat.") for number in range(6)], *ASKED]:
        await memory.aput(turn)
    messages = await memory.aget()
    assert "Rex" not in "".join(str(message.content) for message in messages if message.role != "system")
    assert "My dog is called Rex." in str(messages[0].content)
    await memory.sql_store._async_engine.dispose()


async def test_the_loop_goes_on_while_the_gate_reads(waiting):
    memory, gate, _ = waiting
    block = MemRecallMemoryBlock(memory=memory)
    await block.aput(TURNS)
    task = asyncio.create_task(block.aget(ASKED))
    assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
    assert not task.done()
    gate.go.set()
    assert REX in await task
    block.close()


@pytest.mark.parametrize("settings", [{"topk": 3}, {"top_k": 0}])
def test_a_mistyped_or_impossible_setting_is_refused(settings):
    with pytest.raises(ValidationError):
        MemRecallMemoryBlock(**settings)
