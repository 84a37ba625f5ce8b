"""Each bank has its own candidates, kept in it: whoever asks, in which order, through which filter."""

from __future__ import annotations

import gc
import math
import random
import shutil
import sqlite3
import unicodedata
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from memrecall_kv.bank import MemoryBank, index, tokens
from memrecall_kv.bank.directory import CATALOGUE
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.errors import BankFormatError, InputError
from memrecall_kv.evaluate.lexical import bm25s
from memrecall_kv.filters import Compare, Operator
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.candidates import SharedWords
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_memory
from memrecall_kv.types import Chunk, Document, Note, Scored, WorkingMemory

NOTHING = WorkingMemory()
QUESTION = "Who keeps the key?"
TEXTS = {"ann": "Ann keeps the key.", "bob": "Bob keeps the key and the ladder.", "boat": "The boat is blue."}
FINGERPRINT = {"backbone": "none"}


@pytest.fixture
def memory() -> MemRecall:
    config = MemRecallConfig(
        chunking=ChunkingConfig(chunk_tokens=64),
        gate=GateConfig(lexical_weight=1.0),
        scan=ScanConfig(top_k=1, candidates=2),
    )
    gate = ScriptedGate(lambda *_: 0.6)
    return tiny_memory(config, gate=gate, reasoner=ScriptedReasoner({}, lambda *_: "the key"))


def filled(memory: MemRecall, path, texts: dict[str, str]) -> MemoryBank:
    bank = memory.open_bank(path)
    memory.ingest(bank, [Document(id=key, text=text, metadata={"of": key}) for key, text in texts.items()])
    return bank


def opened(memory: MemRecall, bank: MemoryBank, where=None) -> list[str]:
    return [recall.chunk.doc_id for recall in memory.recall(bank, QUESTION, where=where)]


def text_bank(path: Path) -> MemoryBank:
    return MemoryBank.open(path, fingerprint=FINGERPRINT)


def put(bank: MemoryBank, doc_id: str, *texts: str, **metadata: object) -> None:
    chunks, start = [], 0
    for number, text in enumerate(texts):
        chunks.append(Chunk(doc_id, number, start, start + len(text), text, max(1, len(text.split()))))
        start += len(text)
    bank.put_document(Document(doc_id, "".join(texts), metadata), chunks, defer=True)


def found(bank: MemoryBank, question: str, limit: int | None, where=None) -> list[str]:
    return [chunk.id for chunk, _ in bank.candidates(question, limit, bank.scope(where))]


def sharing(bank: MemoryBank, question: str, where=None) -> dict[str, float]:
    return {chunk.id: share for chunk, share in bank.candidates(question, None, bank.scope(where)) if share}


def test_two_banks_in_turn_have_their_own_words(memory, tmp_path) -> None:
    first = filled(memory, tmp_path / "first", {"ann": TEXTS["ann"]})
    second = filled(memory, tmp_path / "second", {"bob": TEXTS["bob"], "boat": TEXTS["boat"]})
    with first, second:
        for _ in range(3):
            assert opened(memory, first) == ["ann"]
            assert opened(memory, second) == ["bob"]


def test_filters_in_turn_never_see_each_others_texts(memory, tmp_path) -> None:
    with filled(memory, tmp_path / "bank", TEXTS) as bank, ThreadPoolExecutor(4) as pool:
        for tenant in TEXTS:
            assert opened(memory, bank, lambda _, metadata, tenant=tenant: metadata["of"] == tenant) == [tenant]
        tenants = [*TEXTS] * 8
        asked = [pool.submit(opened, memory, bank, Compare("of", Operator.EQ, tenant)) for tenant in tenants]
        assert [future.result() for future in asked] == [[tenant] for tenant in tenants]
        memory.ingest(bank, [Document(id="cat", text="The cat keeps the key too.")])
        assert opened(memory, bank, lambda doc_id, _: doc_id == "cat") == ["cat"]


def test_candidates_are_at_most_the_limit_in_the_banks_order(memory, tmp_path) -> None:
    notes = WorkingMemory((Note("It is under the blue boat.", "x#0"),))
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        words = SharedWords(bank, None)
        assert [c.chunk.doc_id for c in words.propose(QUESTION, WorkingMemory(), 2)] == ["ann", "bob"]
        assert "boat" in [c.chunk.doc_id for c in words.propose("Where?", notes, 1)]
        assert [c.chunk.doc_id for c in words.propose(QUESTION, notes, None)] == list(TEXTS)
        only = SharedWords(bank, lambda doc_id, _: doc_id == "boat")
        assert [c.words for c in only.propose(QUESTION, notes, None)] == [1.0]
        assert (words.total, only.total) == (3, 1)
        assert SharedWords(bank, lambda *_: False).propose(QUESTION, notes, 2) == []


def test_beyond_those_that_are_sure_only_what_shares_enough_is_proposed(tmp_path) -> None:
    with text_bank(tmp_path / "bank") as bank:
        for number in range(9):
            put(bank, f"d{number}", ("Paint and brushes." if number < 3 else "Paint." if number < 5 else "Nothing."))
        shares = {c.chunk.doc_id: c.words for c in SharedWords(bank, None).propose("paint brushes", NOTHING, 9)}
        assert (len(shares), shares["d0"], shares["d8"]) == (9, 1.0, 0.0)
        assert 0.05 < shares["d4"] < 0.9
        for sure, least_share, expected in [
            (1, 1.0, 3),
            (1, 0.05, 5),
            (4, 1.0, 4),
            (7, 0.05, 7),
            (9, 1.0, 9),
            (99, 1.0, 9),
            (2, 0.0, 9),
        ]:
            words = SharedWords(bank, None, least_share=least_share, sure=sure)
            proposed = words.propose("paint brushes", NOTHING, 9)
            assert [c.chunk.doc_id for c in proposed] == [f"d{number}" for number in range(expected)]
            assert len(words.propose("paint brushes", NOTHING, None)) == 9
            assert len(words.propose("zebra?", NOTHING, 9)) == 9  # nothing is told from the rest


def test_what_a_note_was_taken_of_does_not_outshine_the_others(tmp_path) -> None:
    note = "Brushes of Oslo lie beside the ladder of the painter."
    with text_bank(tmp_path / "bank") as bank:
        for number, text in enumerate([note, "Ladder rails.", "Painter walls.", *["Nothing."] * 6]):
            put(bank, f"d{number}", text)
        words = SharedWords(bank, None, least_share=0.5, sure=1)
        told, made_up = (WorkingMemory((Note(note, source),)) for source in ("d0#0", "elsewhere#0"))
        assert [c.chunk.doc_id for c in words.propose("where?", told, 9)] == ["d0", "d1", "d2"]
        assert [c.chunk.doc_id for c in words.propose("where?", made_up, 9)] == ["d0"]


@pytest.mark.parametrize(("top_k", "expected"), [(1, 4), (6, 6), (12, 12)])
def test_half_of_the_candidates_are_judged_whatever_they_share(memory, tmp_path, top_k: int, expected: int) -> None:
    texts = {f"d{number:02}": "Paint." if number == 0 else f"Shelf {number}." for number in range(20)}
    scan = ScanConfig(top_k=top_k, candidates=8, least_share=0.5)
    asked = tiny_memory(
        memory.config.model_copy(update={"scan": scan}), gate=memory.parts.gate, reasoner=memory.parts.reasoner
    )
    with filled(asked, tmp_path / "bank", texts) as bank:
        answer = asked.ask(bank, "Which paint?")
        assert len({step.chunk_id for step in answer.trace.steps}) == expected
        assert len(answer.evidence) == top_k


def test_as_many_are_proposed_as_are_to_be_opened(memory, tmp_path) -> None:
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        assert len(memory.recall(bank, QUESTION, top_k=3)) == 3


FILLER = {f"filler {number}": f"Nothing of interest happened on day {number}." for number in range(40)}
FOUND = {
    "chinese": ("大阪的市长是横山英幸。", "大阪市长是谁？"),
    "one chinese letter": ("黑猫在睡觉。", "猫？"),
    "japanese": ("経費は部長が承認します。", "経費を承認するのは誰？"),
    "japanese, half width": ("ｶﾀｶﾅの本", "カタカナ"),
    "korean": ("서울에서 회의가 열린다.", "서울은?"),
    "thai": ("กรุงเทพมหานครเป็นเมืองหลวง", "เมืองหลวงคือ"),
    "hindi": ("किताबें मेज़ पर हैं", "किताब कहाँ है"),
    "english": ("Omar renews passports.", "Who handled the renewal of my passport?"),
    "english plural": ("A child of the boxes", "Which box?"),
    "compound": ("Der Genehmigungsantrag liegt beim Vorstand.", "Wer bearbeitet Genehmigungsanträge?"),
    "spanish": ("El camarero sirve la cena.", "¿Qué sirvieron los camareros?"),
    "finnish": ("Talossani asuu kissa.", "Kenen talossa?"),
    "decomposed": ("La Re\u0301gion paie l'e\u0301cole.", "Qui finance les écoles régionales ?"),
    "composed": ("Omar tient le café.", unicodedata.normalize("NFD", "Un café ?")),
    "cyrillic": ("Московский завод", "где заводы Москвы?"),
    "greek": ("Οι ΑΝΘΡΩΠΟΙ μιλούν", "ο άνθρωπος"),
    "arabic": ("كَتَبَ الطالبُ", "الطالب كتب"),
    "hebrew": ("שָׁלוֹם לכולם", "שלום"),
    "turkish": ("İstanbul büyük", "istanbul"),
    "sharp s": ("Die Straße ist zu.", "STRASSE"),
    "ligature": ("The ﬁlter is full.", "filter"),
    "wide letters": ("ＰＲ３ pumps water.", "What does PR3 pump?"),
    "a number": ("Room 4711 is cold.", "4711?"),
}


@pytest.mark.parametrize(("text", "question"), FOUND.values(), ids=FOUND)
def test_words_are_found_in_every_script_and_form(tmp_path, text: str, question: str) -> None:
    with text_bank(tmp_path / "bank") as bank:
        for doc_id, filler in FILLER.items():
            put(bank, doc_id, filler)
        put(bank, "found", text)
        put(bank, "last", "Nothing else.")
        assert found(bank, question, 1) == ["found#0"]


def test_a_text_is_cut_in_words_without_their_forms() -> None:
    assert tokens.tokens("") == tokens.tokens("... 🎉 --- ") == []
    assert tokens.tokens("The CAFÉS, cafe's") == ["the", "cafe", "cafe", "s"]
    assert tokens.tokens("护照 abc护") == ["护照", "abc", "护"]
    assert len(tokens.tokens("x" * 10**6)[0]) == len(tokens.tokens("é" * 10**6)[0]) == 64
    assert (tokens.stump("passport"), tokens.stump("key"), tokens.stump("护照")) == ("passp", "key", "护")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Ann Lee, who left Oslo in 1901, met Bo.", ["ann", "lee", "oslo", "1901", "bo"]),
        ("Το πλοίο της Άννας έφυγε από τον Πειραιά για τη Σύρο.", ["το", "ανν", "πειραι", "συρ"]),
        ("大阪的市长是横山英幸。", None),
        ("قاد السفينة أحمد من البصرة", None),
        ("The pump of the turbine is driven by gas.", None),
        ("", None),
    ],
)
def test_names_are_what_is_not_written_small(text: str, left: list[str] | None) -> None:
    found = tokens.tokens(tokens.names(text))
    assert found == (tokens.tokens(text) if left is None else left)


def test_of_a_note_its_names_lead_on(tmp_path) -> None:
    note = Note("The tall captain of the old ship, who sailed to Oslo with Ann Lee in 1901, liked the sea.", "d0#0")
    with text_bank(tmp_path / "bank") as bank:
        for doc_id, text in {"d0": note.text, "small": "A tall captain sailed an old ship; he liked the sea."}.items():
            put(bank, doc_id, text)
        for doc_id, text in (("named", "Ann Lee was born far from Oslo."), ("other", "Nothing.")):
            put(bank, doc_id, text)
        proposed = SharedWords(bank, None).propose("Who knows?", WorkingMemory((note,)), 4)
        shares = {candidate.chunk.doc_id: candidate.words for candidate in proposed}
        assert shares["named"] > shares["small"]


def test_a_word_said_often_asks_for_no_more(tmp_path) -> None:
    with text_bank(tmp_path / "bank") as bank:
        put(bank, "ladder", "A ladder.")
        put(bank, "key", "A key.")
        assert found(bank, "key key key ladder", 2) == found(bank, "key ladder", 2)
        shares = [dict(bank.candidates(text, 2, bank.scope())).values() for text in ("key key ladder", "ladder key")]
        assert [*shares[0]] == [*shares[1]]


def test_scores_are_those_of_bm25s_with_each_word_weighed_by_its_rarity_again(tmp_path) -> None:
    source = random.Random(0)
    names = [f"w{chr(97 + number)}x" for number in range(20)]
    texts = [" ".join(source.choices(names, range(20, 0, -1), k=12)) for _ in range(300)]
    bm25 = bm25s.BM25()
    bm25.index([text.split() for text in texts], show_progress=False)
    with text_bank(tmp_path / "bank") as bank:
        for number in range(0, 300, 3):
            put(bank, str(number // 3), *texts[number : number + 3])
        for question in ("wax wdx wtx", "wtx", "wax wax wsx"):
            expected = [0.0] * len(texts)
            for word in set(question.split()):  # said twice, it asks for no more
                holding = sum(word in text.split() for text in texts)
                rarity = math.log1p((len(texts) - holding + 0.5) / (holding + 0.5))
                once = bm25.get_scores([word])
                expected = [total + rarity * float(score) for total, score in zip(expected, once, strict=True)]
            expected = [score / max(expected) for score in expected]
            got = [share for _, share in bank.candidates(question, None, bank.scope())]
            assert got == pytest.approx(expected, abs=1e-5)
            chosen = sorted((share for _, share in bank.candidates(question, 32, bank.scope())), reverse=True)
            assert chosen == pytest.approx(sorted(expected, reverse=True)[:32], abs=1e-5)


def test_the_rest_is_filled_with_other_forms_and_then_from_both_ends(tmp_path) -> None:
    with text_bank(tmp_path / "bank") as bank:
        for number in range(20):
            put(bank, f"d{number}", f"Room {number}.", f"Cleaned by floor {number}.")
        put(bank, "d9", "Renewal forms.", "Nothing.")
        put(bank, "d12", "Renewing.", "Nothing.")
        for limit in (1, 2, 3, 7, 40, 99):
            listed = bank.candidates("Who renews it?", limit, bank.scope())
            assert len(listed) == len({chunk.id for chunk, _ in listed}) == min(limit, 40)
            assert listed == sorted(listed, key=lambda pair: (int(pair[0].doc_id[1:]), pair[0].index))
        assert found(bank, "zebra?", 4) == ["d0#0", "d0#1", "d19#0", "d19#1"]
        assert found(bank, "zebra?", 4, lambda doc_id, _: doc_id in ("d3", "d4", "d5")) == [
            "d3#0",
            "d3#1",
            "d5#0",
            "d5#1",
        ]
        assert found(bank, "", 1) == found(bank, "🎉", 1) == ["d0#0"]
        assert set(found(bank, "renovation", 2)) == {"d0#0", "d19#1"}
        assert "d9#0" in found(bank, "renewable", 2)


def test_a_question_judges_as_many_as_it_may_and_tells_of_no_others(memory, tmp_path) -> None:
    texts = {f"d{number}": f"Shelf {number} holds paint." for number in range(60)}
    config = MemRecallConfig(**{**dict(memory.config), "scan": ScanConfig(top_k=1, candidates=8)})
    asked = tiny_memory(config, gate=memory.parts.gate, reasoner=memory.parts.reasoner)
    with filled(asked, tmp_path / "bank", texts) as bank:
        *events, done = asked.stream(bank, "Which doctor?")
        judged = [event.step for event in events if isinstance(event, Scored)]
        assert len(judged) == len(done.answer.trace.steps) == done.answer.usage.blocks_scored == 8
        assert all(step.gate_probability > 0 for step in judged)
        assert done.answer.usage.blocks_total == 60
        assert "d59#0" in {step.chunk_id for step in judged}


def test_a_changed_bank_is_found_as_one_that_was_made_so(tmp_path) -> None:
    source = random.Random(1)
    names = [f"w{number}x" for number in range(60)]
    kept: dict[str, tuple[str, ...]] = {}
    with text_bank(tmp_path / "changed") as bank:
        for _ in range(300):
            doc_id = f"d{source.randrange(40)}"
            if doc_id in kept and source.random() < 0.4:
                bank.delete(doc_id)
                del kept[doc_id]
            else:
                kept[doc_id] = tuple(" ".join(source.choices(names, k=9)) for _ in range(source.randrange(4)))
                put(bank, doc_id, *kept[doc_id])
        order = [document.id for document in bank.documents()]
        with text_bank(tmp_path / "made") as made:
            for doc_id in order:
                put(made, doc_id, *kept[doc_id])
            for _ in range(20):
                question = " ".join(source.choices(names, k=4))
                assert sharing(bank, question) == sharing(made, question)
                assert found(bank, question, 5) == found(made, question, 5)
            assert made.stats() == bank.stats()
        assert bank.verify() == 0


def test_parts_of_the_index_are_full_before_the_next_one_begins(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(index, "_MOST_CHUNKS", 8)
    monkeypatch.setattr(index, "_MOST_DOCUMENTS", 5)

    def parts() -> list[int]:
        with closing(sqlite3.connect(tmp_path / "bank" / CATALOGUE)) as database:
            return [part for (part,) in database.execute("SELECT DISTINCT part FROM postings")]

    with text_bank(tmp_path / "bank") as bank:
        for number in range(30):
            put(bank, f"d{number}", *(f"word w{number}x{chunk}" for chunk in range(number % 4)))
        assert len(parts()) > 5
        before = parts()
        for number in range(29, -1, -1):
            put(bank, f"d{number}", f"word again w{number}y")
            assert found(bank, f"w{number}y", 1) == [f"d{number}#0"]
        assert bank.verify() == 0
        for number in range(0, 30, 2):
            bank.delete(f"d{number}")
        put(bank, "more", "word more")
        assert sorted(sharing(bank, "again")) == sorted(f"d{number}#0" for number in range(1, 30, 2))
        assert bank.verify() == 0
        assert len(parts()) >= len(before)


def test_the_commonest_words_are_left_out_unless_they_are_all_there_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(index, "_MOST_POSTINGS", 10)
    with text_bank(tmp_path / "bank") as bank:
        for number in range(30):
            put(bank, f"d{number}", f"the room n{number}x")
        assert sharing(bank, "the n7x") == {"d7#0": 1.0}
        assert len(sharing(bank, "the")) == 30


def change(bank: MemoryBank, statement: str) -> None:
    with closing(sqlite3.connect(bank.path / CATALOGUE)) as database, database:
        database.execute(statement)


DAMAGE = {
    "a posting": "UPDATE postings SET entries = x'00000000010500'",
    "half a posting": "UPDATE postings SET entries = substr(entries, 2)",
    "a word": "UPDATE postings SET term = 'zebra' WHERE term = 'key'",
    "no words": "DELETE FROM postings",
    "a word less": "DELETE FROM postings WHERE term = 'key'",
    "a count": "UPDATE counts SET chunks = 7",
    "no counts": "DELETE FROM counts",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_found_and_made_anew_by_compact(memory, tmp_path, statement: str) -> None:
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        change(bank, statement)
        with pytest.raises(BankFormatError, match=r"its (index|counts).* Call compact"):
            bank.verify()
        bank.compact()
        assert bank.verify() == 3
        assert opened(memory, bank) == ["ann"]


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_documents_come_and_go_though_the_index_is_damaged(memory, tmp_path, statement: str) -> None:
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        change(bank, statement)
        bank.delete("bob")
        memory.ingest(bank, [Document("cat", "The cat keeps the key.")])
        bank.compact()
        assert bank.verify() == 3
        assert bank.stats().documents == len(bank) == 3


def test_of_a_damaged_document_nothing_is_left_in_the_index(memory, tmp_path) -> None:
    with filled(memory, tmp_path / "bank", TEXTS) as bank:
        change(bank, "UPDATE documents SET text = 'B0b keeps nothing at all, as they say.' WHERE id = 'bob'")
        bank.delete("bob")
        assert sharing(bank, "ladder") == {}
        assert bank.verify() == 2
        change(
            bank, "UPDATE chunks SET num_tokens = 99 WHERE document = (SELECT place FROM documents WHERE id = 'ann')"
        )
        put(bank, "ann", "Ann keeps a hat.")
        assert sharing(bank, "key") == {}


def test_an_index_of_another_release_is_made_anew_by_who_writes(tmp_path, monkeypatch) -> None:
    with text_bank(tmp_path / "bank") as bank:
        put(bank, "ann", TEXTS["ann"])
    monkeypatch.setattr(tokens, "VERSION", "of tomorrow")
    monkeypatch.setattr(index, "tokens", lambda text: [word[::-1] for word in text.lower().split()])
    with MemoryBank.open(tmp_path / "bank", read_only=True) as reader:
        assert sharing(reader, "keeps") == {}
    with text_bank(tmp_path / "bank") as bank:
        assert sharing(bank, "keeps") == {"ann#0": 1.0}
        assert bank.verify() == 0


def test_an_old_bank_is_asked_as_it_is(tmp_path) -> None:
    old = shutil.copytree(Path(__file__).parents[1] / "regression" / "bank-v1", tmp_path / "bank")
    with MemoryBank.open(old, read_only=True) as reader:
        chunks = reader.chunks()
        (right,) = (chunk.id for chunk in chunks if "日本" in chunk.text)
        assert found(reader, "日本語", 1) == [right]
        assert (len(reader), reader.stats().chunks, reader.stats().blocks) == (4, 4, 4)
        before = reader.stats()
        with MemoryBank.open(old) as writer:
            assert (writer.stats(), found(writer, "日本語", 1)) == (before, [right])
            put(writer, "new", "日本語 日本語")
        assert "new#0" in found(reader, "日本語", 2)
        assert len(reader) == 5


@pytest.mark.parametrize("number", [-1, 2**22, 2**63])
def test_a_chunks_number_is_one_that_the_index_can_hold(tmp_path, number: int) -> None:
    with text_bank(tmp_path / "bank") as bank, pytest.raises(InputError, match="index that is not from 0 to 4194303"):
        bank.put_document(Document("d", "text"), [Chunk("d", number, 0, 4, "text", 1)], defer=True)


def test_settings_saved_with_a_source_are_read(memory) -> None:
    for source in ("words", "characters"):
        assert ScanConfig(source=source, candidates=3) == ScanConfig(candidates=3)
    with pytest.raises(Exception, match="source"):
        ScanConfig(source="letters")


def judged_after_a_note(path: Path, **scan: object) -> int:
    texts = {f"d{number}": f"The key number {number} hangs there." for number in range(8)} | {"ladder": "Key, ladder."}
    judged: list[str] = []
    gate = ScriptedGate(lambda question, notes, block: judged.append(notes) or 0.6)
    reasoner = ScriptedReasoner(dict.fromkeys(texts.values(), "Also the ladder."), lambda *_: "there")
    settings = ScanConfig(candidates=9, max_open=2, max_rounds=2, **scan)
    asked = tiny_memory(
        MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=64), scan=settings), gate=gate, reasoner=reasoner
    )
    with filled(asked, path, texts) as bank:
        assert len(asked.recall(bank, "Where is the key?")) == 2
    return sum(bool(notes) for notes in judged)


@pytest.mark.parametrize("order", [{"schedule": "best_first", "top_k": None}, {"top_k": 2}])
def test_only_the_most_promising_are_judged_again_after_a_note(tmp_path, order: dict[str, object]) -> None:
    assert judged_after_a_note(tmp_path / "all", **order) == 8
    # the two most probable, and the two that share most words with the note
    assert 2 <= judged_after_a_note(tmp_path / "some", again=2, **order) <= 4


def test_a_schedule_that_is_the_papers_looks_at_all_again(tmp_path) -> None:
    order = {"schedule": "rescan", "top_k": None}
    assert judged_after_a_note(tmp_path / "all", **order) == judged_after_a_note(tmp_path / "some", again=1, **order)


@pytest.mark.parametrize("limit", [None, 2])
def test_a_pipeline_forgets_a_bank_that_nobody_holds(memory, tmp_path, limit: int | None) -> None:
    scan = ScanConfig(top_k=1, candidates=limit)
    config = MemRecallConfig(**{**memory.config.model_dump(), "scan": scan.model_dump(), "gate": GateConfig()})
    asked = tiny_memory(config, gate=memory.parts.gate, reasoner=memory.parts.reasoner)
    bank = filled(asked, tmp_path / "bank", TEXTS)
    assert opened(asked, bank)
    bank.close()
    seen = weakref.ref(bank)
    del bank
    gc.collect()
    assert seen() is None
