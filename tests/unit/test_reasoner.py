"""The reasoner: notes, limits, readback and the text it yields."""

from __future__ import annotations

import pytest
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.compress.operators import OperatorCompressor
from memrecall_kv.config import CompressorConfig, ReasonerConfig
from memrecall_kv.recall import grounding, prompts
from memrecall_kv.recall.reasoner import BackboneReasoner, Tally
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.types import Chunk, Note, Recall, WorkingMemory


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone(seed=2)


def chunk(text: str, index: int = 0) -> Chunk:
    return Chunk("d", index, 0, len(text), text, len(text.encode()))


def update(backbone: Backbone, config: ReasonerConfig, memory: WorkingMemory, text: str) -> tuple[WorkingMemory, Tally]:
    (block,) = OperatorCompressor(backbone, CompressorConfig(compression_ratio=2)).compress([chunk(text)])
    tally = Tally()
    return BackboneReasoner(backbone, config).update("what?", memory, chunk(text), block, tally), tally


def test_a_note_carries_its_chunk_and_its_cost(backbone: Backbone) -> None:
    memory, tally = update(backbone, ReasonerConfig(max_note_tokens=6), WorkingMemory(), "some text")
    assert [note.chunk_id for note in memory.notes] == ["d#0"]
    assert tally.memory_tokens == 5
    assert 0 < tally.generated_tokens <= 6
    assert tally.prompt_tokens == len(backbone.encode(prompts.note("what?", "")))


def test_the_same_note_is_taken_once(backbone: Backbone) -> None:
    config = ReasonerConfig(max_note_tokens=6)
    first, _ = update(backbone, config, WorkingMemory(), "some text")
    known = WorkingMemory((Note(first.notes[0].text, "d#7"),))
    second, _ = update(backbone, config, known, "some text")
    assert {note.text for note in second.notes} >= {first.notes[0].text}
    assert len({note.text for note in second.notes}) == len(second.notes)


def test_append_keeps_notes_and_rewrite_replaces_them(backbone: Backbone) -> None:
    old = WorkingMemory((Note("old note", "d#9"),))
    appended, _ = update(backbone, ReasonerConfig(max_note_tokens=6), old, "some text")
    rewritten, _ = update(backbone, ReasonerConfig(max_note_tokens=6, memory="rewrite"), old, "some text")
    assert appended.notes[0] == old.notes[0]
    assert len(appended.notes) == 2
    assert [note.chunk_id for note in rewritten.notes] == ["d#0"]


def test_the_oldest_notes_go_first_when_memory_is_full(backbone: Backbone) -> None:
    old = WorkingMemory(tuple(Note(f"note {number}", f"d#{number}") for number in range(9)))
    config = ReasonerConfig(max_note_tokens=6, max_memory_tokens=20)
    memory, _ = update(backbone, config, old, "some text")
    assert len(backbone.encode(memory.text)) <= 20
    assert memory.notes[-1].chunk_id == "d#0"
    assert memory.notes[0].chunk_id != "d#0"


def test_a_block_changes_the_note(backbone: Backbone) -> None:
    config = ReasonerConfig(max_note_tokens=12, readback="off")
    notes = {
        update(backbone, config, WorkingMemory(), text)[0].text for text in ("aaaa aaaa", "zzzz zzzz", "1234 5678")
    }
    assert len(notes) > 1


def test_readback_takes_the_most_probable_texts_that_fit_and_off_takes_none(backbone: Backbone) -> None:
    evidence = [
        Recall(chunk("first text", 0), 0.2, 0),
        Recall(chunk("second text", 1), 0.9, 1),
        Recall(chunk("third text", 2), 0.5, 2),
    ]
    reasoner = BackboneReasoner(backbone, ReasonerConfig(max_readback_tokens=22))
    assert [recall.text for recall in reasoner._readback(evidence)] == ["third text", "second text"]
    costs = {}
    for readback in ("off", "answer"):
        tally = Tally()
        config = ReasonerConfig(readback=readback, max_answer_tokens=2)
        list(BackboneReasoner(backbone, config).answer("what?", WorkingMemory(), evidence, [], tally))
        costs[readback] = tally.prompt_tokens
    assert costs["answer"] - costs["off"] >= len("first text second text third text")


def test_pieces_join_to_whole_characters_on_one_line(backbone: Backbone) -> None:
    config = ReasonerConfig(max_answer_tokens=24)
    pieces = list(BackboneReasoner(backbone, config).answer("日本?", WorkingMemory(), [], [], Tally()))
    assert "\n" not in "".join(pieces)
    assert not any(piece.endswith("\N{REPLACEMENT CHARACTER}") for piece in pieces[:-1] if piece)


def test_with_readback_a_note_is_a_sentence_of_the_chunk() -> None:
    text = "It was late. The Rabbit took a watch out of its pocket! 'Oh dear,' it said."
    assert (
        grounding.closest_sentences(text, "what did the rabbit take out?")
        == "The Rabbit took a watch out of its pocket!"
    )
    assert grounding.closest_sentences("彼は犬だ。猫は魚を食べる。", "猫は魚を食べる") == "猫は魚を食べる。"
    assert grounding.closest_sentences("no end", "x") == "no end"


@pytest.mark.parametrize(
    "reply", ["", "  ", "nothing new", "Nothing new.", "None", "not found", "The text does not mention it", "N/A"]
)
def test_replies_that_say_nothing_are_recognised(reply: str) -> None:
    assert prompts.is_nothing(reply)


@pytest.mark.parametrize("reply", ["Nothingham", "a watch", "Noneya Smith", "He did not go home", "nothing is certain"])
def test_replies_that_say_something_are_kept(reply: str) -> None:
    assert prompts.is_nothing(reply) == (reply == "nothing is certain")


def test_grounded_means_every_content_word_stands_in_the_text() -> None:
    texts = ["The Rabbit took a WATCH out of its waistcoat-pocket, and takes it often."]
    assert grounding.is_grounded("a watch", texts)
    assert grounding.is_grounded("The watch, from the pocket", texts)
    assert not grounding.is_grounded("a golden watch", texts)
    assert not grounding.is_grounded("the", texts)
    assert grounding.is_grounded("It takes watches out", texts, "What does it take?")
    assert not grounding.is_grounded("What did the rabbit take?", texts, "What did the rabbit take?")
