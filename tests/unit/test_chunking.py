import itertools
import re
import sys

import pytest
from memrecall_kv.config import ChunkingConfig
from memrecall_kv.errors import InputError
from memrecall_kv.ingest import chunking
from memrecall_kv.ingest.chunking import chunk_document
from memrecall_kv.testing import byte_tokenizer
from memrecall_kv.types import Document

PAUSES, SPACE, WORD_START = chunking._PAUSES, chunking._SPACE, chunking._WORD_START


@pytest.fixture(scope="module")
def token_spans():
    tokenizer = byte_tokenizer()

    def spans(text):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["offset_mapping"]

    return spans


@pytest.fixture
def cut(token_spans):
    def chunks(text, chunk_tokens=32, overlap_tokens=0):
        config = ChunkingConfig(chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
        return chunk_document(Document("doc", text), token_spans, config)

    return chunks


def texts(chunks):
    return [chunk.text for chunk in chunks]


def test_a_short_text_is_one_chunk_as_it_is(cut):
    (chunk,) = cut("  Hello there.\n")
    assert (chunk.text, chunk.start, chunk.end, chunk.index, chunk.doc_id) == ("  Hello there.\n", 0, 15, 0, "doc")
    assert chunk.num_tokens == 15
    assert chunk.id == "doc#0"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One two. Three four.\n\nFive six seven. Eight nine ten.", "One two. Three four.\n\n"),
        ("One two. Three four.\r\n\r\nFive six seven. Eight nine ten.", "One two. Three four.\r\n\r\n"),
        ("One two three four five. Six seven eight nine ten.", "One two three four five. "),
        ('"One two three four five." Six seven eight nine ten.', '"One two three four five." '),
        ("one two three four\nfive six seven eight nine ten", "one two three four\n"),
        ("one two three four five six seven eight nine ten", "one two three four five six "),
        ("They met at 10 p.m. on the roof of it and left soon", "They met at 10 p.m. on the roof "),
        ("今天很好。我们去。明天也好。我们再去。", "今天很好。我们去。"),  # 3 bytes, so 3 tokens, a character
        ("「今天很好。」他说了。明天", "「今天很好。」"),
        ("שלום לכולם. מה שלומכם היום? הכול בסדר", "שלום לכולם. "),
        ("مرحبا بكم. كيف الحال؟ بخير", "مرحبا بكم. "),
    ],
)
def test_a_chunk_ends_at_the_best_pause_that_fits(cut, text, first):
    chunks = cut(text)
    assert chunks[0].text == first
    assert "".join(texts(chunks)) == text


def test_a_closing_quote_stays_with_its_sentence(cut):
    chunks = cut("我说很好很。」他说好。", chunk_tokens=22)
    assert chunks[0].text == "我说很好很。」"


def test_a_word_longer_than_a_chunk_is_cut_between_grapheme_clusters(cut):
    thumbs = "👍🏽" * 9  # 8 bytes each, so 8 tokens
    assert texts(cut(thumbs)) == ["👍🏽" * 4, "👍🏽" * 4, "👍🏽"]
    flags = "🇩🇪" * 9
    assert texts(cut(flags, chunk_tokens=20)) == ["🇩🇪" * 2] * 4 + ["🇩🇪"]
    assert all(chunk.text[0] != "\u0301" for chunk in cut("e\u0301" * 40, chunk_tokens=8))


def test_a_cluster_longer_than_a_chunk_is_cut_rather_than_the_budget_broken(cut):
    family = "👩\u200d👩\u200d👧\u200d👦"  # 25 tokens
    chunks = cut(family, chunk_tokens=8)
    assert "".join(texts(chunks)) == family
    assert max(chunk.num_tokens for chunk in chunks) <= 8


@pytest.mark.parametrize("tail", ["\n", "    ", "\n\n\n\n\n\n"])
def test_whitespace_at_the_end_is_no_chunk_of_its_own(cut, tail):
    for length in range(20, 70):
        chunks = cut("word " * (length // 5) + "x" * (length % 5) + "." + tail)
        assert all(chunk.text.strip() for chunk in chunks)


def test_whitespace_longer_than_a_chunk_keeps_the_budget(cut):
    text = "a" + " " * 100 + "b"
    chunks = cut(text)
    assert "".join(texts(chunks)) == text
    assert max(chunk.num_tokens for chunk in chunks) <= 32


def test_with_overlap_a_chunk_starts_at_a_word_inside_the_one_before(cut):
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    chunks = cut(text, overlap_tokens=12)
    assert len(chunks) > 2
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start < before.end < after.end
        assert before.end - after.start <= 12
        assert text[after.start - 1] == " "


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000\n"])
def test_a_blank_text_is_refused(cut, text):
    with pytest.raises(InputError, match="'doc': expected text, got"):
        cut(text)


def test_half_a_surrogate_pair_is_refused_with_its_place(cut):
    with pytest.raises(InputError, match="at character 3"):
        cut("abc\ud83d")


def test_a_tokenizer_whose_characters_exceed_the_budget_is_refused():
    with pytest.raises(InputError, match="Raise chunk_tokens"):
        chunk_document(Document("doc", "ab"), lambda text: [(0, 1)] * 9 * len(text), ChunkingConfig(chunk_tokens=8))


def test_a_text_that_takes_more_tokens_alone_than_in_context_still_fits():
    def spans(text):  # one token a character, and two more at the end of every text but a short one
        return [*((i, i + 1) for i in range(len(text))), *[(len(text), len(text))] * (2 if len(text) > 4 else 0)]

    chunks = chunk_document(Document("doc", "word " * 30), spans, ChunkingConfig(chunk_tokens=16))
    assert all(len(spans(chunk.text)) == chunk.num_tokens <= 16 for chunk in chunks)
    assert "".join(texts(chunks)) == "word " * 30


class Watched(str):
    """A text that counts the characters taken out of it."""

    taken = 0

    def __getitem__(self, place):
        found = super().__getitem__(place)
        self.taken += len(found)
        return found


class Searched:
    """A pattern that counts the characters it may look at."""

    def __init__(self, pattern):
        self.pattern, self.seen = pattern, 0

    def __getattr__(self, name):
        def call(text, start=0, end=sys.maxsize):
            self.seen += max(min(end, len(text)) - start, 0)
            return getattr(self.pattern, name)(text, start, end)

        return call


@pytest.mark.parametrize("unit", ["a", "word ", ".", "今", "e\u0301", "🇩"])
def test_the_work_grows_with_the_length_of_a_line_and_not_faster(cut, unit, monkeypatch):
    work = []
    for length in (10_000, 160_000):
        text = Watched(unit * (length // len(unit)))
        patterns = [Searched(pattern) for pattern in PAUSES]
        space, start = Searched(SPACE), Searched(WORD_START)
        monkeypatch.setattr(chunking, "_PAUSES", patterns)
        monkeypatch.setattr(chunking, "_SPACE", space)
        monkeypatch.setattr(chunking, "_WORD_START", start)
        chunks = cut(text, chunk_tokens=256)
        work.append(text.taken + sum(pattern.seen for pattern in (*patterns, space, start)))
        assert sum(len(chunk.text) for chunk in chunks) == length // len(unit) * len(unit)
    assert work[0] > 10_000
    assert work[1] < 16 * 2 * work[0]  # a quadratic method takes 256 times as much


def test_a_single_line_of_ten_megabytes_is_cut_without_reading_it_over_and_over():
    """Work that grows with the square of the length would take hours here."""
    line = "word and another one, " * (10 * 2**20 // 22)
    spans_asked = 0

    def words(text):
        nonlocal spans_asked
        spans_asked += len(text)
        return [match.span() for match in re.finditer(r"\s*\S+", text)]

    chunks = chunk_document(Document("long", line), words, ChunkingConfig(chunk_tokens=4096))
    assert "".join(chunk.text for chunk in chunks) == line
    assert max(chunk.num_tokens for chunk in chunks) <= 4096
    assert spans_asked < 8 * len(line)
