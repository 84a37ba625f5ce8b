import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memrecall_kv.config import ChunkingConfig
from memrecall_kv.ingest.chunking import chunk_document
from memrecall_kv.testing import byte_tokenizer
from memrecall_kv.types import Document, Heading

TOKENIZER = byte_tokenizer()
PIECES = [
    "word",
    "a",
    ". ",
    "? ",
    "\n",
    "\n\n",
    "\r\n",
    "   ",
    "今天",
    "。",
    "」",
    "שלום",
    "مرحبا؟ ",
    "e\u0301",
    "👍🏽",
    "🇩🇪",
    "क्षि",
    "각",
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=80).map("".join),
    st.text(min_size=1, max_size=200),
).filter(lambda text: text.strip())
BUDGETS = st.integers(min_value=8, max_value=64)


def token_spans(text):
    encoded = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["offset_mapping"]


def cut(text, chunk_tokens, overlap_tokens=0):
    config = ChunkingConfig(chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
    return chunk_document(Document("doc", text), token_spans, config)


@settings(max_examples=300, deadline=None)
@given(TEXTS, BUDGETS)
@example("a" + " " * 40, 8)
def test_chunks_tile_the_text_within_the_budget(text, chunk_tokens):
    chunks = cut(text, chunk_tokens)
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.start for chunk in chunks] == [0, *(chunk.end for chunk in chunks[:-1])]
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.num_tokens == len(token_spans(chunk.text)) <= chunk_tokens


@settings(max_examples=300, deadline=None)
@given(TEXTS, BUDGETS, st.data())
def test_with_overlap_chunks_cover_the_text_and_go_forward(text, chunk_tokens, data):
    overlap = data.draw(st.integers(min_value=1, max_value=chunk_tokens - 1))
    chunks = cut(text, chunk_tokens, overlap)
    assert chunks[0].start == 0
    assert chunks[-1].end == len(text)
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.num_tokens == len(token_spans(chunk.text)) <= chunk_tokens


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(min_value=16, max_value=64), st.text(max_size=60), st.text(max_size=60), st.data())
def test_under_a_heading_chunks_cover_the_text_within_the_budget(text, chunk_tokens, judged, read, data):
    overlap = data.draw(st.integers(min_value=0, max_value=chunk_tokens - 1))
    config = ChunkingConfig(chunk_tokens=chunk_tokens, overlap_tokens=overlap)
    chunks = chunk_document(Document("doc", text, heading=Heading(judged, read)), token_spans, config)
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        sizes = [len(token_spans(shown)) for shown in (chunk.judged_text, chunk.read_text)]
        assert chunk.num_tokens == max(sizes) <= chunk_tokens
        assert max(len(token_spans(part)) for part in (chunk.heading.judged, chunk.heading.read)) <= chunk_tokens // 2


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab.\n 今。ש", min_size=1, max_size=200).filter(lambda text: text.strip()), st.data())
def test_with_overlap_every_chunk_starts_inside_the_one_before(text, data):
    overlap = data.draw(st.integers(min_value=1, max_value=15))
    chunks = cut(text, 16, overlap)
    for before, after in itertools.pairwise(chunks):
        blank = not text[before.end : after.end].strip()  # only whitespace longer than a chunk does without
        assert after.start < before.end or blank or not before.text.strip()


@settings(max_examples=300, deadline=None)
@given(TEXTS, BUDGETS)
@example("\n\n\n\n각\n\n", 8)  # no place to cut leaves something to read on both sides
def test_no_chunk_is_blank_unless_whitespace_fills_one(text, chunk_tokens):
    longest = max(len((before + after).encode()) for before, after in itertools.pairwise(_whitespace_runs(text)))
    if longest <= chunk_tokens - 4:  # 4 bytes for the one character between them
        assert all(chunk.text.strip() for chunk in cut(text, chunk_tokens))


def _whitespace_runs(text):
    return "".join(character if character.isspace() else "x" for character in text).split("x")


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(min_value=0, max_value=40))
def test_no_grapheme_cluster_is_cut_that_fits_a_chunk(text, overlap_tokens):
    regex = pytest.importorskip("regex")  # comes with transformers; the product does without
    ends = [match.end() for match in regex.finditer(r"\X", text)]
    clusters = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if max(len(cluster.encode()) for cluster in clusters) <= 24:
        places = {place for chunk in cut(text, 64, overlap_tokens) for place in (chunk.start, chunk.end)}
        assert places <= {0, *ends}
