import asyncio
import copy
import gc
import pickle
from pathlib import Path

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from memrecall_kv import MemRecallConfig, ScanConfig
from memrecall_kv.errors import BankError, FingerprintMismatchError, InputError
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_backbone, tiny_memory
from pydantic import ValidationError

from llama_index_memrecall import MemRecallPostprocessor

QUESTION = "Who approves trips?"


class Given(BaseRetriever):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def _retrieve(self, query_bundle):
        return self.found


@pytest.fixture
def found(nodes):
    return [NodeWithScore(node=node, score=0.1 * place) for place, node in enumerate(nodes)]


@pytest.fixture
def gate(memory):
    gate = MemRecallPostprocessor(memory=memory, top_n=2)
    yield gate
    gate.close()


def ids(nodes):
    return [node.node_id for node in nodes]


@pytest.mark.parametrize("top_n", [1, 2, 4, 9])
def test_top_n_is_exact_as_long_as_there_are_as_many(memory, found, top_n):
    gate = MemRecallPostprocessor(memory=memory, top_n=top_n)
    kept = gate.postprocess_nodes(found, query_str=QUESTION)
    assert len(kept) == min(top_n, 4)
    assert len({node.node_id for node in kept}) == len(kept)
    gate.close()


def test_top_n_counts_nodes_even_if_some_are_longer_than_a_chunk(memory, found):
    long = " ".join(f"Sentence number {number} is about trips." for number in range(20))
    found.insert(0, NodeWithScore(node=TextNode(id_="long", text=long)))
    for top_n in (1, 3, 5):
        gate = MemRecallPostprocessor(memory=memory, top_n=top_n)
        kept = gate.postprocess_nodes(found, query_str=QUESTION)
        assert len(set(ids(kept))) == len(kept) == top_n
        gate.close()


def test_without_top_n_the_settings_decide(found, open_only):
    gate = MemRecallPostprocessor(memory=open_only(len("team: facilities\n\nThe lift is broken.")))
    assert ids(gate.postprocess_nodes(found, query_str=QUESTION)) == ["node-lift"]
    assert gate.postprocess_nodes(found[:2], query_str=QUESTION) == []
    gate.close()


@pytest.mark.parametrize("top_n", [None, 2, 9])
def test_no_answer_is_written_that_nobody_asked_for(found, top_n):
    answered = []
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: answered.append(question) or "Dana."))
    gate = MemRecallPostprocessor(memory=memory, top_n=top_n)
    gate.postprocess_nodes(found, query_str=QUESTION)
    assert answered == []
    gate.close()


def test_the_first_choice_does_not_depend_on_the_order_of_arrival(gate, found):
    gate.top_n = 1
    forth, back = (gate.postprocess_nodes(nodes, query_str=QUESTION) for nodes in (found, found[::-1]))
    assert forth == back
    assert 0.0 <= forth[0].score <= 1.0


def test_nodes_come_back_whole_with_the_probability_as_score(gate, found):
    by_id = {node.node_id: node.node for node in found}
    for kept in gate.postprocess_nodes(found, query_str=QUESTION):
        original = by_id[kept.node_id]
        assert (kept.text, kept.node.ref_doc_id) == (original.text, original.ref_doc_id)
        assert kept.metadata == original.metadata
        assert kept.node.hash == original.hash
        assert kept.get_content(MetadataMode.LLM) == original.get_content(MetadataMode.LLM)
        assert kept.get_content(MetadataMode.EMBED) == original.get_content(MetadataMode.EMBED)


def test_nothing_that_went_in_is_changed_or_shared_with_what_comes_out(gate, found):
    before = copy.deepcopy(found)
    kept = gate.postprocess_nodes(found, query_str=QUESTION)
    for node in kept:
        node.metadata["later"] = "stage"
        node.node.excluded_llm_metadata_keys.append("later")
        node.node.relationships.clear()
        node.score = -1.0
    assert found == before


def test_a_missing_question_is_refused_and_no_nodes_give_none(gate, found):
    with pytest.raises(ValueError, match="Missing query bundle"):
        gate.postprocess_nodes(found)
    with pytest.raises(ValueError, match="both"):
        gate.postprocess_nodes(found, QueryBundle(QUESTION), QUESTION)
    assert gate.postprocess_nodes([], query_str=QUESTION) == []
    with pytest.raises(InputError, match="question"):
        gate.postprocess_nodes(found, query_str="  ")


def test_what_only_matters_after_another_node_was_read_is_kept_too():
    """Lunch comes first and means nothing until Dana's note is there: the gate looks again."""
    texts = {"lunch": "Lunch with Dana is at noon.", "dana": "Dana approves trips.", "lift": "The lift is broken."}
    given = [NodeWithScore(node=TextNode(id_=name, text=text)) for name, text in texts.items()]

    def script(question, notes, block):
        matters = {len(texts["dana"]): True, len(texts["lunch"]): "Dana" in notes}
        return float(matters.get(block.num_source_tokens, False))

    config = MemRecallConfig(**{**dict(tiny_memory().config), "scan": ScanConfig(top_k=None)})
    reasoner = ScriptedReasoner({texts["dana"]: "Dana approves."}, lambda question, known: "")
    gate = MemRecallPostprocessor(memory=tiny_memory(config, gate=ScriptedGate(script), reasoner=reasoner))
    kept = gate.postprocess_nodes(given, query_str=QUESTION)
    assert [node.node_id for node in kept] == ["dana", "lunch"]
    gate.close()


async def test_the_async_route_gives_the_same_and_refuses_the_same(gate, found):
    expected = gate.postprocess_nodes(found, query_str=QUESTION)
    assert await gate.apostprocess_nodes(found, QueryBundle(QUESTION)) == expected
    assert await gate.apostprocess_nodes([], query_str=QUESTION) == []
    with pytest.raises(ValueError, match="Missing query bundle"):
        await gate.apostprocess_nodes(found)


async def test_concurrent_calls_give_what_they_give_alone(gate, found):
    questions = [QUESTION, "When is lunch?", "What is broken?"]
    alone = [gate.postprocess_nodes(found, query_str=question) for question in questions]
    assert await asyncio.gather(*(gate.apostprocess_nodes(found, query_str=q) for q in questions)) == alone


def test_the_same_node_found_twice_comes_once(gate, found):
    gate.top_n = 9
    assert sorted(ids(gate.postprocess_nodes([*found, *found], query_str=QUESTION))) == sorted(ids(found))


def test_equal_text_under_two_ids_is_two_nodes_judged_alike(memory):
    twins = [NodeWithScore(node=TextNode(id_=name, text="Dana approves trips.")) for name in "ab"]
    gate = MemRecallPostprocessor(memory=memory, top_n=2)
    first, second = gate.postprocess_nodes(twins, query_str=QUESTION)
    assert (ids([first, second]), first.score) == (["a", "b"], second.score)
    gate.close()


def test_two_texts_under_one_id_are_both_judged(gate):
    clash = [
        NodeWithScore(node=TextNode(id_="same", text=text)) for text in ("Dana approves trips.", "Lunch is at noon.")
    ]
    kept = gate.postprocess_nodes(clash, query_str=QUESTION)
    assert sorted(node.text for node in kept) == ["Dana approves trips.", "Lunch is at noon."]


def test_a_node_without_text_comes_last_and_only_if_there_is_room(gate, found):
    image = NodeWithScore(node=ImageNode(id_="image", image_url="https://example.org/a.png"), score=0.9)
    captioned = NodeWithScore(node=ImageNode(id_="captioned", text="Dana on a trip.", image="aGk="))
    assert "image" not in ids(gate.postprocess_nodes([image, *found], query_str=QUESTION))
    gate.top_n = 9
    kept = gate.postprocess_nodes([image, captioned, *found], query_str=QUESTION)
    assert len(kept) == 6
    assert (kept[-1].node_id, kept[-1].score) == ("image", 0.0)
    assert next(node.node.image for node in kept if node.node_id == "captioned") == "aGk="
    gate.top_n = None
    assert gate.postprocess_nodes([image], query_str=QUESTION) == []


@pytest.mark.parametrize("route", ["sync", "async"])
async def test_it_tells_both_of_the_hosts_channels(memory, found, event_log, route):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    gate = MemRecallPostprocessor(memory=memory, top_n=2, callback_manager=CallbackManager([debug]))
    if route == "sync":
        kept = gate.postprocess_nodes(found, query_str=QUESTION)
    else:
        kept = await gate.apostprocess_nodes(found, query_str=QUESTION)
    (start,), (end,) = event_log.of("ReRankStartEvent"), event_log.of("ReRankEndEvent")
    assert (start.top_n, ids(start.nodes), start.query.query_str) == (2, ids(found), QUESTION)
    assert ids(end.nodes) == ids(kept)
    ((before, after),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert before.payload[EventPayload.QUERY_STR] == QUESTION
    assert ids(after.payload[EventPayload.NODES]) == ids(kept)
    gate.close()


async def test_both_routes_have_a_span(gate, found, span_log):
    gate.postprocess_nodes(found, query_str=QUESTION)
    await gate.apostprocess_nodes(found, query_str=QUESTION)
    names = [span.id_.split("-")[0] for span in span_log.completed_spans]
    assert names.count("MemRecallPostprocessor._postprocess_nodes") == 1
    assert names.count("MemRecallPostprocessor._apostprocess_nodes") == 1


def test_settings_survive_a_round_trip_and_the_model_stays_out(memory):
    gate = MemRecallPostprocessor(memory=memory, top_n=3, name_or_path="some/model", cache_path="cache.bank")
    data = gate.to_dict()
    assert data == {
        "top_n": 3,
        "working_memory": False,
        "name_or_path": "some/model",
        "device": "auto",
        "cache_path": "cache.bank",
        "class_name": "MemRecallPostprocessor",
    }
    assert MemRecallPostprocessor.from_dict(data).to_dict() == data
    assert MemRecallPostprocessor.from_json(gate.to_json()).to_dict() == data


def test_a_pickled_copy_has_the_settings_and_loads_its_own_model(gate, found):
    gate.postprocess_nodes(found, query_str=QUESTION)
    again = pickle.loads(pickle.dumps(gate))  # noqa: S301
    assert (again.to_dict(), again.memory) == (gate.to_dict(), None)


@pytest.mark.parametrize("settings", [{"topn": 3}, {"top_n": 0}, {"threshold": 0.5}])
def test_a_mistyped_or_impossible_setting_is_refused(settings):
    with pytest.raises(ValidationError):
        MemRecallPostprocessor(**settings)


def test_no_setting_has_a_name_pydantic_reserves():
    assert not [name for name in MemRecallPostprocessor.model_fields if name.startswith("model_")]


def test_making_one_loads_nothing(tmp_path):
    gate = MemRecallPostprocessor(name_or_path="no/such/model", cache_path=str(tmp_path / "cache"))
    assert isinstance(gate, BaseNodePostprocessor)
    assert not (tmp_path / "cache").exists()


def test_a_cache_with_a_path_is_kept_and_not_filled_twice(memory, found, tmp_path):
    path = str(tmp_path / "cache")
    for _ in range(2):
        gate = MemRecallPostprocessor(memory=memory, top_n=2, cache_path=path)
        gate.postprocess_nodes(found, query_str=QUESTION)
        gate.close()
    with memory.open_bank(path, read_only=True) as cache:
        assert cache.stats().documents == 4
        judged = {text.heading.judged + text.text for text in cache.documents()}
        assert judged == {node.get_content(MetadataMode.EMBED) for node in found}


def test_nodes_of_an_earlier_question_are_not_given_for_a_later_one(gate, found):
    gate.top_n = 9
    gate.postprocess_nodes(found, query_str=QUESTION)
    assert ids(gate.postprocess_nodes(found[:1], query_str=QUESTION)) == ids(found[:1])


@pytest.mark.parametrize("end", ["close", "collect"])
def test_a_temporary_cache_goes_with_its_owner(memory, found, monkeypatch, tmp_path, end):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gate = MemRecallPostprocessor(memory=memory, top_n=1)
    gate.postprocess_nodes(found, query_str=QUESTION)
    assert len(list(Path(tmp_path).iterdir())) == 1
    if end == "close":
        gate.close()
    else:
        del gate
        gc.collect()
    assert list(Path(tmp_path).iterdir()) == []


def test_it_works_again_after_close(gate, found):
    first = gate.postprocess_nodes(found, query_str=QUESTION)
    gate.close()
    assert gate.postprocess_nodes(found, query_str=QUESTION) == first


def test_an_error_of_the_core_passes_through(memory, found, tmp_path):
    (tmp_path / "cache").write_text("a file where a directory should be")
    gate = MemRecallPostprocessor(memory=memory, cache_path=str(tmp_path / "cache"))
    with pytest.raises(BankError):
        gate.postprocess_nodes(found, query_str=QUESTION)


def test_a_cache_of_another_model_is_refused(memory, found, tmp_path):
    path = str(tmp_path / "cache")
    first = MemRecallPostprocessor(memory=memory, cache_path=path)
    first.postprocess_nodes(found, query_str=QUESTION)
    first.close()
    other = MemRecallPostprocessor(memory=tiny_memory(backbone=tiny_backbone(seed=1)), cache_path=path)
    with pytest.raises(FingerprintMismatchError):
        other.postprocess_nodes(found, query_str=QUESTION)


async def test_it_works_inside_the_hosts_query_engine_on_both_routes(gate, found):
    engine = RetrieverQueryEngine(
        retriever=Given(found),
        response_synthesizer=get_response_synthesizer(llm=MockLLM(), response_mode="compact"),
        node_postprocessors=[gate],
    )
    expected = ids(gate.postprocess_nodes(found, query_str=QUESTION))
    assert ids(engine.query(QUESTION).source_nodes) == expected
    assert ids((await engine.aquery(QUESTION)).source_nodes) == expected


@pytest.mark.parametrize("top_n", [None, 1, 9])
def test_working_memory_can_come_as_one_more_node(found, top_n):
    notes = {"Dana approves trips.": "Dana approves."}
    memory = tiny_memory(reasoner=ScriptedReasoner(notes, lambda question, known: "Dana."), gate=dana_first())
    gate = MemRecallPostprocessor(memory=memory, top_n=top_n, working_memory=True)
    *kept, last = gate.postprocess_nodes(found, query_str=QUESTION)
    assert len(kept) == (1 if top_n == 1 else 4)
    assert kept[0].node_id == "node-travel"
    assert last.text == "Notes taken while reading:\n- Dana approves."
    assert last.score is None
    again = gate.postprocess_nodes(found, query_str=QUESTION)[-1]
    assert again.node_id == last.node_id
    gate.close()


def dana_first():
    size = len("team: finance\nyear: 2024\n\nDana approves trips.")
    return ScriptedGate(lambda question, notes, block: 0.9 if block.num_source_tokens == size else 0.2)


def test_without_a_note_no_node_is_added(memory, found):
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, known: "Dana."))
    gate = MemRecallPostprocessor(memory=memory, top_n=2, working_memory=True)
    assert len(gate.postprocess_nodes(found, query_str=QUESTION)) == 2
    gate.close()


def test_a_kept_cache_can_be_made_to_forget(memory, found, tmp_path):
    gate = MemRecallPostprocessor(memory=memory, top_n=2, cache_path=str(tmp_path / "cache"))
    expected = gate.postprocess_nodes(found, query_str=QUESTION)
    gate.clear_cache()
    left = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert b"Dana" not in left
    assert gate.postprocess_nodes(found, query_str=QUESTION) == expected
    gate.close()
