"""The page of an answer shows how it came about, stays small, and takes no text for anything else."""

import html
import re
import sys
from pathlib import Path

import pytest
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.errors import MissingDependencyError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.report import page as pages
from memrecall_kv.report.foreign import shown
from memrecall_kv.report.marking import marked
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from memrecall_kv.types import Answer, Document, Quote, Step
from page_reading import HOSTILE, answer, checked, chunk
from pydantic import TypeAdapter

DOCS = Path(__file__).parents[2] / "docs" / "report.md"
QUESTION = "Where hangs the key of Dana's room?"
TRIPS = "Dana Whitfield approves trips. She works in room nine."
LUNCH = "Lunch is served at noon in the large canteen downstairs. "
ROOM = "The key of room nine hangs at the entrance of the house."
DOCUMENTS = [Document("trips.md", TRIPS, {"title": "Trips"}), Document("house.md", LUNCH + ROOM)]


class ByText:
    """A gate that knows texts by their lengths: what it believes at first, and once a room was noted."""

    def __init__(self, believed):
        self._by_length = {len(text): each for text, each in believed.items()}

    def score(self, question, notes, blocks):
        return [self._by_length[block.num_source_tokens]["nine" in notes.text] for block in blocks]


@pytest.fixture
def recalled(tmp_path):
    """A bank, and an answer from a chunk that matters only after another one was noted."""
    memory = tiny_memory(
        MemRecallConfig(
            chunking=ChunkingConfig(chunk_tokens=60),
            gate=GateConfig(threshold=0.5),
            scan=ScanConfig(schedule="best_first", top_k=None),
        ),
        gate=ByText({TRIPS: (0.9, 0.9), ROOM: (0.31, 0.83), LUNCH: (0.12, 0.07)}),
        reasoner=ScriptedReasoner(
            {TRIPS: "Dana works in room nine.", ROOM: "Its key is at the entrance."}, lambda *_: "At the entrance."
        ),
    )
    with memory.open_bank(tmp_path / "house.bank") as bank:
        memory.ingest(bank, DOCUMENTS)
        yield bank, memory.ask(bank, QUESTION)


class Texts:
    """Documents by id, each cut into pieces of one size."""

    def __init__(self, texts, size=100):
        self._texts, self._size = texts, size

    def __contains__(self, doc_id):
        return doc_id in self._texts

    def document(self, doc_id):
        return Document(doc_id, self._texts[doc_id])

    def chunks(self, where=None):
        return [
            chunk(doc_id, start // self._size, text[start : start + self._size], start)
            for doc_id, text in self._texts.items()
            if where is None or where(doc_id, {})
            for start in range(0, len(text), self._size)
        ]


def section(page, name):
    """Return the part of a page between one heading's anchor and the next."""
    return re.search(rf'<section id="{name}".*?</section>', page, re.S)[0]


def test_an_answer_says_what_was_asked_seen_and_paid(recalled):
    _, answered = recalled
    assert (answered.trace.question, answered.trace.threshold) == (QUESTION, 0.5)
    assert [sorted(look.values()) for look in answered.trace.looks] == [[0.12, 0.31, 0.9], [0.07, 0.83], [0.07]]
    assert [stage.name for stage in answered.usage.stages] == ["find", "judge", "note", "answer"]
    read = {stage.name: stage.bytes for stage in answered.usage.stages}
    assert read["find"] == 0 < read["answer"] == read["note"] < read["judge"]
    assert 0 < sum(stage.seconds for stage in answered.usage.stages) <= answered.usage.seconds
    opened = [step for step in answered.trace.steps if step.opened]
    assert [[note.text for note in step.memory.notes] for step in opened] == [
        ["Dana works in room nine."],
        ["Dana works in room nine.", "Its key is at the entrance."],
    ]


def test_a_hosts_writer_is_timed_too(recalled, tmp_path):
    memory = tiny_memory()
    with memory.open_bank(tmp_path / "other.bank") as bank:
        memory.ingest(bank, DOCUMENTS)
        written = memory.ask(bank, QUESTION, write=lambda *_: iter(["At", " home"]))
    assert written.text == "At home"
    assert {stage.name: stage.bytes for stage in written.usage.stages}["answer"] == 0


def test_the_page_shows_how_an_answer_came_about(recalled):
    bank, answered = recalled
    written = answered.to_html(bank)
    page = checked(written)
    assert page.code["script"] == ""
    for said in (QUESTION, "At the entrance.", "trips.md", "house.md", "Dana works in room nine.", "threshold, 0.50"):
        assert said in page.text
    # the cited span is in the text around it, and in it stands what the answer says
    (house,) = re.findall(r'<span class="around">(.*?)</span><span class="span">(.*?)</span>', written)
    assert house[0] == LUNCH.rstrip()
    assert house[1] == "The key of room nine hangs <mark>at the entrance</mark> of the house."
    # the claim, the sentence that holds it, and where that was opened
    claims = section(written, "claims")
    assert re.findall(r"<q[^>]*>(.*?)</q>", claims) == [ROOM]
    assert 'all its words stand there, <a href="#t2">text 2</a>' in claims
    # the order of opening, and what was known after each
    notes = section(written, "notes")
    assert re.findall(r"([\w.]+)</bdi>&nbsp;#(\d)", notes) == [("trips.md", "0"), ("house.md", "1")]
    assert re.findall(r"Working memory now: (\d note)", notes) == ["1 note", "2 note"]
    # what was refused, how close it came, and its text
    refused = section(written, "refused")
    assert re.findall(r">([\d.]+(?: below| above)?)</td>", refused) == ["0.12", "0.38 below", "0.07"]
    assert "large canteen" in refused
    # every probability of every look
    numbers = re.findall(r'<td class="n">(.*?)</td>', section(written, "blocks"))
    assert numbers == ["0.900", "–", "–", "1", "0.120", "0.070", "0.070", "–", "0.310", "0.830", "–", "2"]
    cost = section(written, "cost")
    for name in ("Find candidates", "Judge them", "Take notes", "Write the answer"):
        assert name in cost


def test_without_a_bank_the_page_shows_what_the_answer_holds(recalled):
    bank, answered = recalled
    page = checked(answered.to_html())
    assert "The key of room nine" in page.text
    assert "canteen" not in page.text
    assert "canteen" in checked(answered.to_html(bank)).text


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_text_that_changed_since_is_not_shown_around_what_was_read(recalled, change):
    bank, answered = recalled
    bank.delete("house.md")
    memory = tiny_memory(MemRecallConfig(chunking=ChunkingConfig(chunk_tokens=60)))
    if change == "replaced":
        memory.ingest(bank, [Document("house.md", f"Other words. {LUNCH}")])
    page = answered.to_html(bank)
    assert "around" not in section(page, "texts")
    assert "The key of room nine" in checked(page).text


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_whatever_stands_in_a_text_stays_text(hostile):
    opened = chunk(hostile, 0, f"Dana {hostile} trips")
    refused = f"{hostile}x#3"
    steps = [Step(0, opened.id, 0.9, True, hostile), Step(0, refused, 0.4, False)]
    given = answer(
        text=f"Dana {hostile}",
        question=hostile,
        chunks=[opened],
        notes=[hostile],
        looks=[{opened.id: 0.9, refused: 0.4}],
        quotes=(Quote(hostile, 0, "found", opened.id, hostile, 0, 9, hostile), Quote(hostile, 9, "not found")),
        metadata={"title": hostile, "places": [{"unit": hostile, "lengths": [10_000], "name": hostile}]},
    )
    for each in (given, answer(text=hostile, question=hostile, chunks=[opened], notes=[""], steps=steps)):
        for bank in (None, Texts({hostile: f"Dana {hostile} trips" + hostile * 20, f"{hostile}x": hostile * 50})):
            page = checked(each.to_html(bank))
            assert shown(hostile, 100)[:40].strip() in page.text
            assert page.code["script"] == ""


def test_an_answer_without_quotes_has_no_list_of_claims():
    assert 'id="claims"' not in answer().to_html()
    assert 'href="#claims"' not in answer().to_html()


def test_controls_and_what_turns_a_line_around_are_seen():
    assert shown("a\u202eb\u2069", 9) == "a⟨U+202E⟩b⟨U+2069⟩"
    assert shown("\0\x1b\x7f\x9b\ud800", 9) == "␀␛⟨U+007F⟩⟨U+009B⟩\N{REPLACEMENT CHARACTER}"
    assert shown("a\r\nb\rc\n\n \n\n\nd\te", 99) == "a\nb\nc\n\nd\te"
    assert shown("\u05d0\u200f\u0627", 9) == "\u05d0\u200f\u0627"
    assert shown("12345", 5) == "12345"
    assert shown("123456", 5) == "12345 … (1 more characters)"


def test_a_page_of_much_stays_small_and_says_what_it_leaves_out():
    megabyte = "Dana says so. " * 75_000
    texts = Texts({f"{number} {'long' * 500}": megabyte for number in range(100)}, 10_000)
    opened = [chunk(doc_id, 0, megabyte) for doc_id in texts._texts]
    looks = [{f"{each.doc_id}#{index}": 0.3 for each in opened for index in range(100)} for _ in range(12)]
    for look in looks:
        look.update({each.id: 0.9 for each in opened})
    quotes = tuple(Quote(megabyte, 0, "partly", each.id, each.doc_id, 0, 9, megabyte) for each in opened)
    many = answer(text=megabyte, question=megabyte, chunks=opened, notes=[megabyte] * 100, looks=looks, quotes=quotes)
    for bank in (None, texts):
        page = many.to_html(bank)
        assert len(page) < 2_000_000
        text = checked(page).text
        for left_out in (
            "60 more claims left out",
            "76 more opened chunks left out",
            "characters of this span are left out",
        ):
            assert left_out in text
        assert "60 more documents with lower probabilities left out" in text
        assert "40 judged chunks of this document not drawn" in text
        assert "9,876 more refused chunks left out" in text


def test_chunks_between_that_were_not_judged_are_counted():
    texts = Texts({"a": "x" * 1000})
    given = answer(chunks=[chunk("a", 3, "x" * 100, 300)], looks=[{"a#3": 0.9, "a#7": 0.2}])
    assert re.findall(r'⋯(\d+)<span class="unseen"> not judged', given.to_html(texts)) == ["3", "3", "2"]
    assert re.findall(r'⋯(\d+)<span class="unseen"> not judged', given.to_html()) == ["3", "3"]


def test_an_answer_that_kept_no_looks_shows_its_decisions():
    steps = [Step(0, "travel.md#0", 0.9, True, "Dana."), Step(0, "b#1", 0.25, False), Step(1, "b#1", 0.375, False)]
    page = answer(looks=[], steps=steps).to_html()
    numbers = re.findall(r'<td class="n">(.*?)</td>', section(page, "blocks"))
    assert numbers == ["0.900", "–", "1", "0.250", "0.375", "–"]


def test_an_answer_from_before_there_were_reports_is_read_and_drawn():
    kind = TypeAdapter(Answer)
    saved = kind.dump_python(answer(), mode="json")
    for name in ("looks", "question", "threshold"):
        del saved["trace"][name]
    del saved["usage"]["stages"]
    for step in saved["trace"]["steps"]:
        del step["memory"]
    assert "A question that was not kept" in checked(kind.validate_python(saved).to_html()).text


@pytest.mark.parametrize(
    ("found", "grounded", "said"),
    [
        (True, True, "Every word of the answer stands in the texts below."),
        (True, False, "Not every word of the answer stands in the texts below."),
        (False, False, "Not found in what was opened."),
    ],
)
def test_the_page_says_whether_the_answer_stands(found, grounded, said):
    page = answer(found=found, grounded=grounded).to_html()
    assert said in page
    assert ("<mark>" in page) == found


def test_nothing_opened_is_an_answer_too():
    page = answer(text="Not found in the documents.", chunks=[], looks=[], found=False, grounded=False).to_html()
    for said in ("Nothing was opened.", "No block was judged.", "Nothing that was judged was refused."):
        assert said in checked(page).text


def test_what_was_refused_above_the_threshold_is_said_so():
    page = answer(looks=[{"travel.md#0": 0.9, "b#0": 0.75}]).to_html()
    assert "0.25 above" in section(page, "refused")


def test_the_program_of_the_docs_writes_a_page(tmp_path, monkeypatch):
    memory = tiny_memory()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemRecall, "from_pretrained", lambda: memory)
    with memory.open_bank("handbook.bank") as bank:
        memory.ingest(bank, DOCUMENTS)
    (program,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    exec(compile(program, "report.md", "exec"), {})  # noqa: S102 - it is ours
    assert "Who approves trips?" in checked(Path("report.html").read_text(encoding="utf-8")).text


def test_a_notebook_shows_the_page_in_a_frame_that_can_run_nothing():
    given = answer(text="<b>Dana</b> \" & '")
    frame = given._repr_html_()
    found = re.fullmatch(r'<iframe srcdoc="([^"]*)" sandbox="" title="Recall report" [^<>]*></iframe>', frame)
    assert html.unescape(found[1]) == given.to_html().replace('href="#', 'href="about:srcdoc#')


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    pages._environment.cache_clear()
    with pytest.raises(MissingDependencyError, match="Jinja2") as error:
        answer().to_html()
    assert "memrecall-kv[report]" in error.value.hint
    pages._environment.cache_clear()


@pytest.mark.parametrize(
    ("text", "said", "found"),
    [
        ("Ann Lee and ann  lee, Ann.", "Ann Lee.", ["Ann Lee", "ann  lee"]),
        ("Lee met Ann. Nobody else did.", "Ann Lee", ["Lee", "Ann"]),
        ("The key of the old house is red", "The old red house", ["old house", "red"]),
        ("Nothing of it", "Elsewhere", []),
        ("A and the", "the", []),
        ("", "Ann", []),
        ("(a+b)* is a.b", "a+b", ["a+b", "a.b"]),
        ("岩手県の花 岩手県", "岩手県", ["岩手県"]),
    ],
)
def test_what_the_answer_says_is_found_in_a_text(text, said, found):
    assert [text[start:end] for start, end in marked(text, said)] == found
