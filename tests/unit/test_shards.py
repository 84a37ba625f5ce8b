"""Several banks opened as one decide what one bank of the same documents decides, and refuse to be written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memrecall_kv.bank import MemoryBank
from memrecall_kv.bank.shards import ShardedBank, open_bank, shard_name, shard_of
from memrecall_kv.config import (
    ChunkingConfig,
    CompressorConfig,
    GateConfig,
    MemRecallConfig,
    ReasonerConfig,
    ScanConfig,
)
from memrecall_kv.errors import BankError, BankFormatError, FingerprintMismatchError, InputError
from memrecall_kv.filters import Compare, Operator
from memrecall_kv.hosts.documents import blocks_for, walk_documents
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.testing import tiny_backbone, tiny_memory
from memrecall_kv.types import Answer, Chunk, Document, Where

WORDS = "Ann Bob key keys ladder boat blue renewal renews passport passports keeps the the who 東京 都知事".split()
QUESTION = "Who keeps the key of the passport office?"
ORDERS: dict[str, dict[str, object]] = {
    "exact": {"top_k": 3, "candidates": 5},
    "all judged": {"top_k": 2, "candidates": None},
    "rescan": {"top_k": None, "schedule": "rescan", "max_open": 3, "candidates": 6},
    "sequential": {"top_k": None, "schedule": "sequential", "max_open": 2, "candidates": 4},
    "best first": {"top_k": None, "schedule": "best_first", "max_open": 3, "candidates": 6, "again": 2},
}
TEAM: Where = Compare("team", Operator.EQ, "red")
FILTERS: dict[str, Where | None] = {
    "all": None,
    "a query": TEAM,
    "a function": lambda doc_id, metadata: metadata.get("team") == "red" and doc_id != "doc 3",
    "nothing": lambda doc_id, metadata: False,
}


def documents(count: int = 14) -> list[Document]:
    """Some twice the same under two ids, so that scores tie within a shard and across shards."""
    made = []
    for number in range(count):
        words = [WORDS[(number * step + step) % len(WORDS)] for step in range(3, 12 + 5 * (number % 3))]
        text = f"{' '.join(words)}. Ann keeps the key." if number % 3 else "Bob keeps the key of the office."
        made.append(Document(f"doc {number}", text, {"team": ("red", "blue")[number % 2]}))
    return made


def asker(**scan: object) -> MemRecall:
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        compressor=CompressorConfig(compression_ratio=4),
        gate=GateConfig(threshold=0.4, lexical_weight=2.0),
        scan=ScanConfig(**scan),
        reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=6),
    )
    return tiny_memory(config)


def filled(memory: MemRecall, path: Path, texts: Sequence[Document]) -> Path:
    with memory.open_bank(path) as bank:
        memory.ingest(bank, texts)
    return path


def split(texts: Sequence[Document], count: int) -> list[list[Document]]:
    """By turns, so that neighbours come apart, and not evenly."""
    parts: list[list[Document]] = [[] for _ in range(count)]
    for number, document in enumerate(texts):
        parts[number % count if number % 5 else 0].append(document)
    return parts


def decided(answer: Answer) -> Answer:
    """An answer without what takes time, and without what equal texts in one bank save."""
    return replace(answer, usage=replace(answer.usage, seconds=0.0, stages=(), bytes_per_source_token=0.0))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def one_and_many(stack: ExitStack, memory: MemRecall, folder: Path, count: int) -> tuple[MemoryBank, MemoryBank]:
    parts = split(documents(), count)
    paths = [filled(memory, folder / f"part {number}", part) for number, part in enumerate(parts)]
    one = filled(memory, folder / "one", [document for part in parts for document in part])
    return tuple(stack.enter_context(memory.open_bank(each, read_only=True)) for each in (one, paths))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_answer_as_one_bank_does(stack: ExitStack, tmp_path: Path, count: int, order: str) -> None:
    memory = asker(**ORDERS[order])
    one, many = one_and_many(stack, memory, tmp_path, count)
    assert isinstance(many, ShardedBank)
    for name, where in FILTERS.items():
        expected = decided(memory.ask(one, QUESTION, where=where))
        assert decided(memory.ask(many, QUESTION, where=where)) == expected, name
        assert bool(expected.trace.steps) == (name != "nothing")


def test_what_was_deleted_in_a_shard_is_gone_from_all_decisions(stack: ExitStack, tmp_path: Path) -> None:
    memory = asker(top_k=3, candidates=5)
    one, many = one_and_many(stack, memory, tmp_path, 2)
    (first,) = memory.recall(many, QUESTION, top_k=1)
    before = decided(memory.ask(many, QUESTION))
    for bank in (one, *many.shards):
        if first.chunk.doc_id in bank:
            with memory.open_bank(bank.path) as written:
                written.delete(first.chunk.doc_id)
    assert decided(memory.ask(many, QUESTION)) == decided(memory.ask(one, QUESTION)) != before
    assert first.chunk.doc_id not in many


def test_shards_hold_what_one_bank_holds(stack: ExitStack, tmp_path: Path) -> None:
    memory = asker()
    one, many = one_and_many(stack, memory, tmp_path, 3)
    assert (len(many), many.ids(), many.ids(TEAM)) == (len(one), one.ids(), one.ids(TEAM))
    assert many.documents() == one.documents()
    assert many.chunks(TEAM) == one.chunks(TEAM)
    assert many.outlines(5) == one.outlines(5)
    assert many.document("doc 3") == one.document("doc 3")
    assert many.metadata("doc 3") == one.metadata("doc 3")
    assert [many.largest(count, TEAM) for count in range(9)] == [one.largest(count, TEAM) for count in range(9)]
    assert many.verify() == many.stats().blocks >= one.verify()
    assert replace(many.stats(), blocks=0, memory_tokens=0, live_bytes=0, file_bytes=0) == replace(
        one.stats(), blocks=0, memory_tokens=0, live_bytes=0, file_bytes=0
    )
    assert not many.is_deferred("doc 3")
    assert many.deferred_documents() == set()
    assert many.holds(one.document("doc 3"))
    assert many.bytes_per_source_token > 0
    with pytest.raises(InputError, match="no document 'nobody'"):
        many.document("nobody")


def test_documents_are_chosen_as_from_one_bank(stack: ExitStack, tmp_path: Path) -> None:
    memory = asker()
    one, many = one_and_many(stack, memory, tmp_path, 2)
    assert blocks_for(many, 3, TEAM) == blocks_for(one, 3, TEAM)
    events = [list(walk_documents(memory, bank, QUESTION, top_n=3, where=TEAM)) for bank in (one, many)]
    assert [repr(event) for event in events[0]] == [repr(event) for event in events[1]]


# -- candidates, of any texts in any banks -----------------------------------------------------------------

TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12)


def text_bank(path: Path, numbered: Sequence[tuple[int, str]]) -> Path:
    with MemoryBank.open(path, fingerprint={"backbone": "none"}) as bank:
        for number, text in numbered:
            chunk = Chunk(f"d{number}", 0, 0, len(text), text, len(text.split()))
            bank.put_document(Document(f"d{number}", text, {"odd": number % 2}), [chunk], defer=True)
    return path


@settings(max_examples=40)
@given(
    texts=TEXTS,
    cuts=st.lists(st.integers(0, 12), max_size=3),
    question=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
    gone=st.sets(st.integers(0, 11), max_size=3),
)
def test_candidates_and_their_scores_are_those_of_one_bank(tmp_path_factory, texts, cuts, question, gone) -> None:
    folder = tmp_path_factory.mktemp("banks")
    numbered = list(enumerate(texts))
    edges = [0, *sorted(cuts), len(texts)]
    parts = [numbered[start:end] for start, end in pairwise(edges)]
    paths = [text_bank(folder / f"part {number}", part) for number, part in enumerate(parts)]
    for path in (text_bank(folder / "one", numbered), *paths):
        with MemoryBank.open(path) as bank:
            bank.delete_many([f"d{number}" for number in gone if f"d{number}" in bank])
    with open_bank(folder / "one", read_only=True) as one, open_bank(paths, read_only=True) as many:
        for where in (None, Compare("odd", Operator.EQ, 1)):
            for limit in (None, 1, 3, 8):
                expected = one.candidates(question, limit, one.scope(where))
                assert many.candidates(question, limit, many.scope(where)) == expected


# -- opening and writing -----------------------------------------------------------------------------------


def sharded(memory: MemRecall, folder: Path, count: int = 2) -> Path:
    for number in range(count):
        its = [document for document in documents() if shard_of(document.id, count) == number]
        filled(memory, folder / shard_name(number, count), its)
    return folder


def test_a_directory_of_shards_is_opened_by_its_path(tmp_path: Path) -> None:
    memory = asker()
    with memory.open_bank(sharded(memory, tmp_path / "all"), read_only=True) as bank:
        assert sorted(bank.ids()) == sorted(document.id for document in documents())
        assert len(memory.recall(bank, QUESTION, top_k=2)) == 2


@pytest.mark.parametrize("known", [True, False])
def test_who_writes_is_told_which_bank_to_open(tmp_path: Path, known: bool) -> None:
    memory = asker()
    folder = sharded(memory, tmp_path / "all")
    document = Document("doc 3" if known else "new", "A new text.")
    home = folder / shard_name(shard_of(document.id, 2), 2)
    with memory.open_bank(folder, read_only=True) as bank:
        chunks = memory.chunk(document)
        for write in (
            lambda: memory.ingest(bank, [document]),
            lambda: bank.put_documents([(document, chunks)], defer=True),
            lambda: bank.put_document(document, chunks),
            lambda: bank.put_blocks([(chunks[0], None)]),
            lambda: bank.delete(document.id),
        ):
            with pytest.raises(BankError, match=f"Open {home} to write"):
                write()
        for write in (bank.compact, lambda: bank.copy_to(tmp_path)):
            with pytest.raises(BankError, match="Expected one bank to write to"):
                write()
    with pytest.raises(BankError, match=shard_name(0, 2)):
        memory.open_bank(folder)
    with memory.open_bank(home) as bank:
        memory.ingest(bank, [document])
    with memory.open_bank(folder, read_only=True) as bank:
        assert bank.document(document.id).text == document.text


def test_banks_of_any_names_say_where_a_document_is_or_name_all(stack: ExitStack, tmp_path: Path) -> None:
    _, many = one_and_many(stack, asker(), tmp_path, 2)
    with pytest.raises(BankError, match=r"Open .*part 0 to write: document 'doc 0'"):
        many.delete("doc 0")
    with pytest.raises(BankError, match=r"Open one of them to write: .*part 0, .*part 1"):
        many.delete("nobody")


def test_a_document_that_two_banks_hold_is_refused(tmp_path: Path) -> None:
    memory = asker()
    paths = [filled(memory, tmp_path / name, [Document("d", f"Ann keeps the key {name}.")]) for name in "ab"]
    with memory.open_bank(paths, read_only=True) as bank:
        with pytest.raises(BankFormatError, match=r"'d' is in .*/a and in .*/b"):
            memory.recall(bank, QUESTION)
        with pytest.raises(BankFormatError, match="Delete it in one of them"):
            bank.document("d")


def test_what_is_no_whole_set_of_shards_is_refused(tmp_path: Path) -> None:
    memory = asker()
    folder = sharded(memory, tmp_path / "all", 3)
    (folder / shard_name(1, 3)).rename(tmp_path / "kept")
    with pytest.raises(BankFormatError, match=r"Expected 3 shards in .*, got 2; shard-00001-of-00003 missing"):
        memory.open_bank(folder, read_only=True)
    (tmp_path / "kept").rename(folder / shard_name(1, 2))
    with pytest.raises(BankFormatError, match="of 2 and of 3 shards"):
        memory.open_bank(folder, read_only=True)


def test_what_is_no_list_of_banks_is_refused(tmp_path: Path) -> None:
    memory = asker()
    path = filled(memory, tmp_path / "bank", documents(3))
    for wrong in ([], [path, path], [path, tmp_path / "x" / ".." / "bank"]):
        with pytest.raises(InputError, match="Expected different banks"):
            memory.open_bank(wrong, read_only=True)
    with pytest.raises(InputError, match="Expected the path of a bank"):
        memory.open_bank(3, read_only=True)
    with pytest.raises(BankFormatError, match="no memory bank"):
        memory.open_bank([path, tmp_path / "nothing"], read_only=True)


def test_shards_of_different_models_are_refused(tmp_path: Path) -> None:
    memory, other = asker(), tiny_memory(backbone=tiny_backbone(seed=1))
    paths = [filled(memory, tmp_path / "a", documents(2)), filled(other, tmp_path / "b", [Document("x", "Some text.")])]
    for opened in (paths, paths[::-1]):
        with pytest.raises(FingerprintMismatchError):
            open_bank(opened, read_only=True)


def test_every_method_of_a_bank_is_one_of_shards_too() -> None:
    inherited = {"open", "put_document", "delete"}  # the last two call what is refused
    public = {name for name in vars(MemoryBank) if not name.startswith("_")}
    assert public - inherited <= vars(ShardedBank).keys()
