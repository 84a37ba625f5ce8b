import asyncio
from collections import Counter

import pytest
from llama_index.core import Document, Settings, StorageContext, SummaryIndex, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.indices import KeywordTableIndex
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.schema import IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from memrecall_kv import GateConfig, MemRecallConfig, ScanConfig
from memrecall_kv.config import ChunkingConfig
from memrecall_kv.errors import FingerprintMismatchError, InputError
from memrecall_kv.testing import ScriptedGate, ScriptedReasoner, tiny_backbone, tiny_memory
from patience import PATIENCE

from llama_index_memrecall import MemRecallIndex, MemRecallQueryEngine, MemRecallRetriever
from llama_index_memrecall._convert import to_documents

QUESTION = "Who approves trips?"


def ids(nodes):
    return [node.node_id for node in nodes]


def texts(nodes):
    return {node.get_content() for node in nodes}


@pytest.fixture
def retriever(memory, documents):
    retriever = MemRecallRetriever.from_documents(documents, memory=memory, top_k=2)
    yield retriever
    retriever.close()


@pytest.fixture
def index(nodes):
    return VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))


def test_an_open_bank_may_hold_deferred_documents(memory, retriever, documents, tmp_path):
    with memory.open_bank(tmp_path / "deferred") as bank:
        memory.ingest(bank, to_documents(documents), defer=True)
        engine = MemRecallQueryEngine.from_bank(bank, memory=memory, top_k=2)
        found = [node.text for node in engine.query(QUESTION).source_nodes]
    assert found == [node.text for node in retriever.retrieve(QUESTION)]


class Proposing(BaseRetriever):
    """Finds what it is told to, and says on which route."""

    def __init__(self, found):
        super().__init__()
        self.found, self.asked = found, []

    def _retrieve(self, query_bundle):
        self.asked.append(("sync", query_bundle.embedding_strs))
        return self.found

    async def _aretrieve(self, query_bundle):
        self.asked.append(("async", query_bundle.embedding_strs))
        return self.found


@pytest.mark.parametrize("top_k", [1, 3, 9])
async def test_an_exact_number_is_recalled_in_order_on_both_routes(memory, documents, top_k):
    retriever = MemRecallRetriever.from_documents(documents, memory=memory, top_k=top_k)
    sources = retriever.retrieve(QUESTION)
    assert len(sources) == min(top_k, 4)
    assert len({source.node_id for source in sources}) == len(sources)
    assert await retriever.aretrieve(QueryBundle(QUESTION)) == sources
    retriever.close()


def test_without_top_k_the_threshold_decides(open_only, documents):
    judged = documents[3].get_content(MetadataMode.EMBED)
    retriever = MemRecallRetriever.from_documents(documents, memory=open_only(len(judged)))
    assert [source.node.ref_doc_id for source in retriever.retrieve(QUESTION)] == ["lift"]
    retriever.close()


def test_ids_are_the_same_every_time_and_those_of_the_host(memory, nodes, tmp_path):
    given = MemRecallRetriever.from_nodes(nodes, memory=memory, bank=tmp_path / "bank", top_k=9)
    expected = ids(given.retrieve(QUESTION))
    given.close()
    assert sorted(expected) == sorted(node.node_id for node in nodes)
    again = MemRecallRetriever.from_bank(tmp_path / "bank", memory=memory, top_k=9)
    assert ids(again.retrieve(QUESTION)) == expected
    again.close()


async def test_both_routes_have_a_span(retriever, span_log):
    retriever.retrieve(QUESTION)
    await retriever.aretrieve(QUESTION)
    names = [span.id_.split("-")[0] for span in span_log.completed_spans]
    assert names.count("MemRecallRetriever._retrieve") == 1
    assert names.count("MemRecallRetriever._aretrieve") == 1


async def test_the_loop_goes_on_while_the_gate_reads(documents, waiting):
    memory, gate, _ = waiting
    retriever = MemRecallRetriever.from_documents(documents, memory=memory)
    task = asyncio.create_task(retriever.aretrieve(QUESTION))
    assert await asyncio.to_thread(gate.entered.wait, PATIENCE)
    assert not task.done()
    gate.go.set()
    await task
    retriever.close()


def test_an_index_node_is_followed_to_what_it_stands_for(memory):
    node = IndexNode(id_="index", text="A summary of the handbook.", index_id="handbook")
    target = TextNode(id_="target", text="The handbook itself.")
    retriever = MemRecallRetriever.from_nodes([node], memory=memory, object_map={"handbook": target})
    assert ids(retriever.retrieve(QUESTION)) == ["target"]
    retriever.close()


def test_an_index_node_with_its_object_is_followed_and_left_alone(memory):
    target = TextNode(id_="target", text="The handbook itself.")
    node = IndexNode(id_="index", text="A summary of the handbook.", index_id="handbook", obj=target)
    retriever = MemRecallRetriever.from_nodes([node], memory=memory)
    assert ids(retriever.retrieve(QUESTION)) == ["target"]
    assert node.obj is target
    retriever.close()


def test_a_retriever_of_the_host_proposes_and_memory_recalls_among_that(memory, nodes, compressions):
    proposing = Proposing([NodeWithScore(node=node, score=0.5) for node in nodes[:3]])
    engine = MemRecallQueryEngine.from_args(proposing, memory=memory, top_k=9)
    bundle = QueryBundle(QUESTION, custom_embedding_strs=["a made-up answer"])
    response = engine.query(bundle)
    assert sorted(ids(response.source_nodes)) == sorted(node.node_id for node in nodes[:3])
    assert proposing.asked == [("sync", ["a made-up answer"])]
    before = {node.node_id: node.hash for node in nodes}
    assert all(before[source.node_id] == source.node.hash for source in response.source_nodes)
    assert sorted(compressions) == sorted(node.text for node in nodes[:3])
    proposing.found = [NodeWithScore(node=node) for node in nodes[2:]]
    assert sorted(ids(engine.retrieve(QUESTION))) == sorted(node.node_id for node in nodes[2:])
    assert sorted(compressions) == sorted(node.text for node in nodes)
    engine.close()


async def test_a_retriever_of_the_host_is_asked_on_the_callers_route(memory, nodes):
    proposing = Proposing([NodeWithScore(node=node) for node in nodes])
    engine = MemRecallQueryEngine.from_args(proposing, memory=memory, top_k=2)
    assert (await engine.aquery(QUESTION)).source_nodes == await engine.aretrieve(QUESTION)
    assert [route for route, _ in proposing.asked] == ["async", "async"]
    engine.close()


def test_filters_hold_for_what_is_proposed_and_nothing_found_is_not_found(memory, nodes):
    proposing = Proposing([NodeWithScore(node=node) for node in nodes])
    kitchen = MetadataFilters(filters=[MetadataFilter(key="team", value="kitchen")])
    engine = MemRecallQueryEngine.from_args(proposing, memory=memory, top_k=9, filters=kitchen)
    assert ids(engine.query(QUESTION).source_nodes) == ["node-lunch"]
    proposing.found = []
    response = engine.query(QUESTION)
    assert (response.response, response.source_nodes) == (memory.config.reasoner.not_found, [])
    engine.close()


def test_a_retriever_of_ours_is_used_as_it_is(retriever, compressions):
    engine = MemRecallQueryEngine.from_args(retriever)
    assert engine.query(QUESTION).source_nodes == retriever.retrieve(QUESTION)
    assert compressions == []
    with pytest.raises(InputError, match="top_k"):
        MemRecallQueryEngine.from_args(retriever, top_k=3)


def test_an_index_that_exists_is_asked_without_its_models(memory, index, nodes):
    engine = MemRecallQueryEngine.from_index(index, memory=memory, top_k=9)
    response = engine.query(QUESTION)
    assert sorted(ids(response.source_nodes)) == sorted(node.node_id for node in nodes)
    assert (Settings._llm, Settings._embed_model) == (None, None)
    engine.close()


@pytest.mark.parametrize("from_docstore", [True, False])
def test_an_index_is_followed_and_what_it_deletes_is_gone(memory, documents, tmp_path, from_docstore):
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    path = tmp_path / "bank"
    retriever = MemRecallRetriever.from_index(index, bank=path, memory=memory, top_k=9)
    assert len(retriever.retrieve(QUESTION)) == 4
    index.delete_ref_doc("travel", delete_from_docstore=from_docstore)
    index.insert(Document(id_="new", text="Rui approves trips now."))
    found = texts(retriever.retrieve(QUESTION))
    assert "Rui approves trips now." in found
    assert "Dana approves trips." not in found
    assert len(found) == 4
    with memory.open_bank(path) as bank:
        assert "Dana approves trips." not in {document.text for document in bank.documents()}
        bank.compact()
    retriever.close()
    left = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert b"Dana approves trips." not in left


def test_nodes_taken_out_of_the_vector_store_alone_are_gone_too(memory, index):
    retriever = MemRecallRetriever.from_index(index, memory=memory, top_k=9)
    index.delete_nodes(["node-travel"])
    assert "node-travel" not in ids(retriever.retrieve(QUESTION))
    retriever.close()


def test_only_what_changed_in_an_index_is_compressed(memory, index, compressions):
    retriever = MemRecallRetriever.from_index(index, memory=memory, top_k=1)
    assert len(compressions) == 4
    retriever.retrieve(QUESTION)
    index.insert_nodes([TextNode(id_="new", text="Rui approves trips now.")])
    retriever.retrieve(QUESTION)
    retriever.retrieve(QUESTION)
    assert compressions[4:] == ["Rui approves trips now."]
    retriever.close()


def test_indexes_that_share_a_docstore_stay_apart(memory, nodes):
    context = StorageContext.from_defaults()
    one = SummaryIndex(nodes[:2], storage_context=context)
    SummaryIndex(nodes[2:], storage_context=context)
    retriever = MemRecallRetriever.from_index(one, memory=memory, top_k=9)
    assert sorted(ids(retriever.retrieve(QUESTION))) == sorted(ids(nodes[:2]))
    retriever.close()


def test_a_bank_of_others_is_not_emptied_by_following_an_index(memory, index, documents, tmp_path):
    MemRecallRetriever.from_documents(documents, bank=tmp_path / "bank", memory=memory).close()
    retriever = MemRecallRetriever.from_index(index, bank=tmp_path / "bank", memory=memory, top_k=9)
    index.delete_nodes(["node-travel"])
    assert set(ids(retriever.retrieve(QUESTION))) == {"node-limits", "node-lunch", "node-lift"}
    with memory.open_bank(tmp_path / "bank", read_only=True) as bank:
        assert {document.id_ for document in documents} <= {document.id for document in bank.documents()}
    retriever.close()


def test_an_empty_index_gets_the_not_found_answer(memory):
    index = VectorStoreIndex([], embed_model=MockEmbedding(embed_dim=4))
    engine = MemRecallQueryEngine.from_index(index, memory=memory)
    assert engine.query(QUESTION).response == memory.config.reasoner.not_found
    engine.close()


def test_an_index_without_a_list_of_its_nodes_is_refused_with_the_other_way(memory, nodes):
    from llama_index.core.llms import MockLLM

    index = KeywordTableIndex([], llm=MockLLM())
    with pytest.raises(InputError, match="from_args"):
        MemRecallRetriever.from_index(index, memory=memory)


def test_an_index_that_keeps_its_text_elsewhere_is_refused_with_the_other_way(memory, nodes, monkeypatch):
    from llama_index.core.vector_stores import SimpleVectorStore

    class TextStore(SimpleVectorStore):
        """A store that keeps text, as most servers do."""

        stores_text: bool = True

    context = StorageContext.from_defaults(vector_store=TextStore())
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=MockEmbedding(embed_dim=4))
    with pytest.raises(InputError, match="store_nodes_override"):
        MemRecallRetriever.from_index(index, memory=memory)


@pytest.mark.parametrize("options", [{"similarity_top_k": 3}, {"modle": "typo"}])
def test_an_unknown_option_is_refused(memory, options):
    with pytest.raises(TypeError):
        MemRecallRetriever.from_documents([], memory=memory, **options)


def test_what_cannot_be_used_is_refused_when_the_retriever_is_made(index, tmp_path):
    with pytest.raises(InputError, match="top_k"):
        MemRecallRetriever(tmp_path, top_k=0)
    with pytest.raises(InputError, match="as_retriever"):
        MemRecallRetriever.from_args(index)


def test_a_bank_of_another_model_is_refused(memory, documents, tmp_path):
    MemRecallRetriever.from_documents(documents, memory=memory, bank=tmp_path / "bank").close()
    other = MemRecallRetriever.from_bank(tmp_path / "bank", memory=tiny_memory(backbone=tiny_backbone(seed=1)))
    with pytest.raises(FingerprintMismatchError):
        other.retrieve(QUESTION)


@pytest.fixture
def long_nodes():
    """Nodes of many blocks each; all blocks of the third match the question best."""
    return [
        TextNode(id_=f"n{place}", text=" ".join(f"Plant{place} line {line} is fine." for line in range(12)))
        for place in range(6)
    ]


@pytest.fixture
def by_words():
    """A memory that opens what shares words with the question."""
    return tiny_memory(
        MemRecallConfig(
            chunking=ChunkingConfig(chunk_tokens=64),
            gate=GateConfig(threshold=0.5, lexical_weight=12.0),
            scan=ScanConfig(top_k=4, candidates=8),
        ),
        gate=ScriptedGate(lambda *_: 0.0025),
        reasoner=ScriptedReasoner({}, lambda question, notes: "Fine."),
    )


@pytest.mark.parametrize("top_k", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("route", ["index", "from_nodes", "from_bank", "from_index", "from_args"])
async def test_as_many_nodes_as_asked_for_however_long_they_are(by_words, long_nodes, top_k, route, tmp_path):
    hosts = VectorStoreIndex(long_nodes, embed_model=MockEmbedding(embed_dim=4))
    own = MemRecallIndex(long_nodes, memory=by_words, bank=tmp_path / "bank")
    retriever = {
        "index": lambda: own.as_retriever(similarity_top_k=top_k),
        "from_nodes": lambda: MemRecallRetriever.from_nodes(long_nodes, memory=by_words, top_k=top_k),
        "from_bank": lambda: MemRecallRetriever.from_bank(tmp_path / "bank", memory=by_words, top_k=top_k),
        "from_index": lambda: MemRecallRetriever.from_index(hosts, memory=by_words, top_k=top_k),
        "from_args": lambda: MemRecallRetriever.from_args(
            hosts.as_retriever(similarity_top_k=9), memory=by_words, top_k=top_k
        ),
    }[route]()
    with own, retriever:
        engine = MemRecallQueryEngine(retriever)
        for found in (
            retriever.retrieve("What of Plant3?"),
            await retriever.aretrieve("What of Plant3?"),
            engine.query("What of Plant3?").source_nodes,
            (await engine.aquery("What of Plant3?")).source_nodes,
        ):
            assert len(set(ids(found))) == len(found) == min(top_k, 6)
            assert found[0].node_id == "n3"
        engine.close()


def test_nodes_that_say_the_same_are_counted_too(memory):
    nodes = [NodeWithScore(node=TextNode(id_=name, text="Dana approves trips.")) for name in "ab"]
    if len(Proposing(nodes).retrieve(QUESTION)) == 1:
        pytest.skip("this LlamaIndex drops nodes of the same text from what any retriever returns")
    hosts = SummaryIndex([TextNode(id_=name, text="Dana approves trips.") for name in "abc"])
    for top_k in (1, 2, 3):
        retriever = MemRecallRetriever.from_args(hosts.as_retriever(), memory=memory, top_k=top_k)
        assert len(retriever.retrieve(QUESTION)) == top_k
        retriever.close()


async def test_a_made_up_answer_is_what_is_searched_by_and_the_question_what_is_answered(by_words):
    asked = []
    by_words.parts.reasoner._reply = lambda question, notes: asked.append(question) or "Fine."
    nodes = [TextNode(id_="trips", text="Dana approves trips."), TextNode(id_="lift", text="Our lift is out of order.")]
    bundle = QueryBundle("elevator status", custom_embedding_strs=["The lift is out of order.", "elevator status"])
    with MemRecallIndex(nodes, memory=by_words) as index:
        retriever = index.as_retriever(similarity_top_k=1)
        engine = index.as_query_engine(similarity_top_k=1)
        assert ids(retriever.retrieve(bundle)) == ids(await retriever.aretrieve(bundle)) == ["lift"]
        assert ids(engine.query(bundle).source_nodes) == ids((await engine.aquery(bundle)).source_nodes) == ["lift"]
    assert set(asked) == {"elevator status"}


def test_recall_can_be_kept_to_documents_or_nodes(memory, documents, nodes, tmp_path):
    with MemRecallIndex.from_documents(documents, memory=memory, bank=tmp_path / "bank") as index:
        found = index.as_retriever(top_k=9, doc_ids=["travel", "lift"]).retrieve(QUESTION)
        assert {source.node.ref_doc_id for source in found} == {"travel", "lift"}
        (one,) = index.as_query_engine(top_k=9, node_ids=[found[0].node_id]).query(QUESTION).source_nodes
        assert one.node_id == found[0].node_id
        kitchen = MetadataFilters(filters=[MetadataFilter(key="team", value="finance")])
        (both,) = index.as_retriever(top_k=9, doc_ids=["travel", "lift"], filters=kitchen).retrieve(QUESTION)
        assert both.node.ref_doc_id == "travel"
        assert index.as_retriever(top_k=9, doc_ids=[]).retrieve(QUESTION) == []
    with MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=9, doc_ids=["lunch"]) as engine:
        assert {source.node.ref_doc_id for source in engine.retrieve(QUESTION)} == {"lunch"}
    hosts = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4)).as_retriever(
        similarity_top_k=9
    )
    with MemRecallRetriever.from_args(hosts, memory=memory, top_k=9, doc_ids=["lift"]) as among:
        assert {source.node.ref_doc_id for source in among.retrieve(QUESTION)} == {"lift"}


async def test_fusion_adds_up_the_scores_of_one_node(by_words):
    texts = ["Dana approves trips to Oslo.", "Lunch is at noon in Oslo.", "The lift in Oslo is broken.", "Parking."]
    questions = ["trips Oslo", "lunch Oslo noon", "broken lift Oslo"]

    class Fusion(QueryFusionRetriever):
        def _get_queries(self, original):
            return [QueryBundle(question) for question in questions[1:]]

        async def _aget_queries(self, original):
            return self._get_queries(original)

    with MemRecallIndex([TextNode(id_=f"n{i}", text=text) for i, text in enumerate(texts)], memory=by_words) as index:
        retriever = index.as_retriever(similarity_top_k=3)
        right = Counter()
        for question in questions:
            found = sorted(retriever.retrieve(question), key=lambda source: -source.score)
            for rank, source in enumerate(found):
                right[source.node_id] += 1 / (60 + rank)
        fusion = Fusion(
            [retriever], llm=MockLLM(), num_queries=3, similarity_top_k=3, mode="reciprocal_rerank", use_async=False
        )
        for found in (fusion.retrieve(questions[0]), await fusion.aretrieve(questions[0])):
            assert {source.node_id: pytest.approx(source.score) for source in found} == dict(right)
