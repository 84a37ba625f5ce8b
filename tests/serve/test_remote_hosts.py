"""Both hosts over a served bank: their own objects, their own tests, and the answers of a local one."""

import pickle

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from llama_index.core import Document, QueryBundle
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode
from loopback import serving
from memrecall_kv import MemRecall
from memrecall_kv.errors import AccessDeniedError, InputError, ServerUnreachableError
from memrecall_kv.serve.keys import KeyFile
from memrecall_kv.testing import tiny_memory
from pydantic import ValidationError
from serve_samples import ANSWER, LUNCH, TRAVEL

import langchain_memrecall
import llama_index_memrecall
from langchain_memrecall import MemRecallRunnable, MemRecallStore

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

QUESTION = "Who approves trips?"
LIFT = {"id": "lift.md", "text": "The lift is broken.", "metadata": {"year": 2021}}
LANGCHAIN = [
    LangChainDocument(id=each["id"], page_content=each["text"], metadata=each["metadata"])
    for each in (TRAVEL, LUNCH, LIFT)
]
LLAMA_INDEX = [Document(id_=each["id"], text=each["text"], metadata=each["metadata"]) for each in (TRAVEL, LUNCH, LIFT)]


class First(BaseNodePostprocessor):
    """Keeps the first node."""

    def _postprocess_nodes(self, nodes, query_bundle=None):
        return nodes[:1]


@pytest.fixture(scope="module")
def url(memory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("banks")
    with serving(memory, *(folder / name for name in ("handbook.bank", "nodes.bank", "llama.bank"))) as url:
        yield url


@pytest.fixture
def handbook(url):
    """The URL of a bank that LangChain's documents are in."""
    with_documents = langchain_memrecall.MemRecallRetriever.from_documents(LANGCHAIN, bank=f"{url}/v1/banks/handbook")
    with_documents.close()
    return f"{url}/v1/banks/handbook"


@pytest.fixture
def local(memory, tmp_path):
    """A bank that is here, with the same documents."""
    langchain_memrecall.MemRecallRetriever.from_documents(LANGCHAIN, bank=tmp_path / "local", memory=memory).close()
    return {"bank": tmp_path / "local", "memory": memory}


class TestLangChainsRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _given(self, handbook):
        self.params, self._made = {"bank": handbook, "k": 2}, []
        yield
        for made in self._made:
            made.close()

    @property
    def retriever_constructor(self):
        def make(**params):
            self._made.append(langchain_memrecall.MemRecallRetriever(**params))
            return self._made[-1]

        return make

    @property
    def retriever_constructor_params(self):
        return self.params

    @property
    def retriever_query_example(self):
        return QUESTION


class TestLangChainsStore(VectorStoreIntegrationTests):
    @property
    def has_get_by_ids(self):
        return True

    @pytest.fixture
    def vectorstore(self, tmp_path):
        memory = tiny_memory()
        with serving(memory, tmp_path / "store.bank") as url:
            store = MemRecallStore.from_url(url, "store")
            yield store
            store.close()


async def test_langchains_retriever_returns_what_a_local_one_does(handbook, local, url):
    near = langchain_memrecall.MemRecallRetriever(**local, k=2)
    far = langchain_memrecall.MemRecallRetriever.from_url(url, "handbook", k=2)
    assert far.invoke(QUESTION) == near.invoke(QUESTION)
    assert await far.ainvoke(QUESTION, filter={"year": 2020}) == near.invoke(QUESTION, filter={"year": 2020})
    assert far.batch([QUESTION, "When is lunch?"], k=1) == near.batch([QUESTION, "When is lunch?"], k=1)
    far.close()
    near.close()


async def test_langchains_runnable_answers_and_streams_as_a_local_one(handbook, local, url):
    near, far = MemRecallRunnable(**local), MemRecallRunnable.from_url(url, "handbook")

    def kept(found):
        return {name: found[name] for name in ("input", "context", "answer", "trace", "quotes")}

    assert kept(far.invoke(QUESTION)) == kept(near.invoke(QUESTION))
    assert kept(await far.ainvoke(QUESTION)) == kept(near.invoke(QUESTION))
    names = [next(iter(chunk)) for chunk in far.stream(QUESTION)]
    assert names[:2] == ["input", "context"]
    assert names.count("answer") > 1
    assert [next(iter(chunk)) async for chunk in far.astream(QUESTION)] == names
    far.close()
    near.close()


async def test_langchains_model_writes_from_what_is_recalled_far_away(handbook, local, url):
    far = MemRecallRunnable.from_url(url, "handbook", llm=FakeListChatModel(responses=["Dana approves trips."]))
    near = MemRecallRunnable(**local, llm=FakeListChatModel(responses=["Dana approves trips."]))
    answered = far.invoke(QUESTION)
    assert answered["answer"] == "Dana approves trips."
    stages = [stage["name"] for stage in answered["usage"]["stages"]]
    assert stages == [stage["name"] for stage in near.invoke(QUESTION)["usage"]["stages"]]
    assert (await far.ainvoke(QUESTION))["context"] == near.invoke(QUESTION)["context"]
    nothing = far.invoke({"input": QUESTION, "filter": {"year": 2020}})
    assert nothing["answer"] == near.invoke({"input": QUESTION, "filter": {"year": 2020}})["answer"]
    far.close()
    near.close()


def test_langchain_saves_the_url_and_no_key(memory, tmp_path, monkeypatch):
    keys = KeyFile(tmp_path / "keys.json")
    key = keys.add("ann", None)
    with serving(memory, tmp_path / "b.bank", keys=keys) as url:
        far = langchain_memrecall.MemRecallRetriever.from_url(url, "b", api_key=key)
        assert far.invoke(QUESTION) == []
        assert key not in f"{far!r} {dumps(far)}"
        saved, pickled = dumps(far), pickle.dumps(far)
        assert key.encode() not in pickled
        far.close()
        without = langchain_memrecall.MemRecallRetriever.load(saved)
        with pytest.raises(AccessDeniedError):
            without.invoke(QUESTION)
        without.close()
        monkeypatch.setenv("MEMRECALL_API_KEY", key)
        for again in (langchain_memrecall.MemRecallRetriever.load(saved), pickle.loads(pickled)):  # noqa: S301 - our own
            assert again.invoke(QUESTION) == []
            again.close()


def test_a_store_adds_finds_and_forgets(url, memory, tmp_path):
    store = MemRecallStore.from_url(url, "nodes")
    ids = store.add_documents(LANGCHAIN)
    assert [found.id for found in store.similarity_search(QUESTION, k=1)] == [TRAVEL["id"]]
    assert {found.id for found in store.get_by_ids([*ids, "nobody"])} == set(ids)
    store.delete([*ids, "nobody"])
    assert store.similarity_search(QUESTION, k=1) == []
    store.close()


@pytest.fixture
def filled(url):
    llama_index_memrecall.MemRecallRetriever.from_documents(LLAMA_INDEX, bank=f"{url}/v1/banks/llama").close()
    return url


async def test_llama_indexs_engine_answers_as_a_local_one(filled, memory):
    with (
        llama_index_memrecall.MemRecallQueryEngine.from_documents(LLAMA_INDEX, memory=memory) as near,
        llama_index_memrecall.MemRecallQueryEngine.from_url(filled, "llama") as far,
    ):
        expected = near.query(QUESTION)
        for response in (far.query(QUESTION), await far.aquery(QUESTION)):
            assert response.response == expected.response == ANSWER
            assert [(node.node_id, node.text, node.score, node.metadata) for node in response.source_nodes] == [
                (node.node_id, node.text, node.score, node.metadata) for node in expected.source_nodes
            ]
            assert response.metadata["trace"] == expected.metadata["trace"]
            assert response.metadata["usage"]["blocks_opened"] == expected.metadata["usage"]["blocks_opened"]
        assert far.retrieve(QUESTION) == await far.aretrieve(QUESTION)


async def test_llama_indexs_engine_streams(filled):
    with llama_index_memrecall.MemRecallQueryEngine.from_url(filled, "llama", streaming=True) as far:
        assert "".join(far.query(QUESTION).response_gen) == ANSWER
        response = await far.aquery(QUESTION)
        pieces = [piece async for piece in response.response_gen]
        assert ("".join(pieces), len([piece for piece in pieces if piece]) > 1) == (ANSWER, True)
        assert response.metadata["usage"]["blocks_opened"] > 0


async def test_an_answer_is_one_request(filled, memory, monkeypatch):
    asked = []
    stream, walk = memory.stream, memory.walk
    monkeypatch.setattr(memory, "stream", lambda *given, **named: asked.append("ask") or stream(*given, **named))
    monkeypatch.setattr(memory, "walk", lambda *given, **named: asked.append("recall") or walk(*given, **named))
    with llama_index_memrecall.MemRecallQueryEngine.from_url(filled, "llama") as far:
        far.query(QUESTION)
        await far.aquery(QUESTION)
    with llama_index_memrecall.MemRecallQueryEngine.from_url(filled, "llama", llm=MockLLM()) as far:
        far.query(QUESTION)
    assert asked == ["ask", "ask", "recall"]


def test_nodes_come_back_whole_and_exactly_so_many(url):
    long = " ".join(f"Sentence {number} of a long node." for number in range(40))
    nodes = [TextNode(id_=name, text=text) for name, text in (("long", long), ("a", "One."), ("b", "Two."))]
    bank = f"{url}/v1/banks/nodes"
    with llama_index_memrecall.MemRecallRetriever.from_nodes(nodes, bank=bank, replace=True, top_k=3) as far:
        assert {found.node_id for found in far.retrieve(QUESTION)} == {"long", "a", "b"}
        assert next(found.text for found in far.retrieve(QUESTION) if found.node_id == "long") == long
    with MemRecall.from_url(bank) as remote:
        remote.delete(*remote.ids())


def test_what_needs_a_model_here_is_refused(filled, handbook):
    given = [NodeWithScore(node=TextNode(text="Given."))]
    with llama_index_memrecall.MemRecallQueryEngine.from_url(filled, "llama") as far:
        with pytest.raises(InputError, match="elsewhere"):
            far.synthesize(QUESTION, given)
        with pytest.raises(InputError, match="search by"):
            far.query(QueryBundle(QUESTION, custom_embedding_strs=["A made-up answer."]))
    with (
        llama_index_memrecall.MemRecallQueryEngine.from_url(filled, "llama", node_postprocessors=[First()]) as far,
        pytest.raises(InputError, match="llm="),
    ):
        far.query(QUESTION)
    runnable = MemRecallRunnable(bank=handbook)
    with pytest.raises(InputError, match="elsewhere"):
        runnable.invoke({"input": QUESTION, "documents": LANGCHAIN})
    runnable.close()
    with pytest.raises(InputError, match="from_url"):
        langchain_memrecall.MemRecallDocumentCompressor(memory=MemRecall.from_url(handbook)).compress_documents(
            LANGCHAIN, QUESTION
        )
    with pytest.raises(InputError, match="directory"):
        llama_index_memrecall.MemRecallIndex.from_documents(LLAMA_INDEX, bank=handbook)


def test_a_client_is_taken_for_a_memory_with_its_bank(filled, handbook, memory):
    with MemRecall.from_url(filled, "llama") as remote:
        with llama_index_memrecall.MemRecallQueryEngine(None, memory=remote) as far:
            assert far.query(QUESTION).response == ANSWER
        assert remote.ask(QUESTION).text == ANSWER
        store = MemRecallStore(memory=remote)
        assert [found.id for found in store.similarity_search(QUESTION, k=1)] == [TRAVEL["id"]]
        with pytest.raises(InputError, match="Leave one out"):
            llama_index_memrecall.MemRecallRetriever("elsewhere.bank", memory=remote)
    for wrong in (lambda: llama_index_memrecall.MemRecallRetriever(handbook, memory=memory),):
        with pytest.raises(InputError, match="Leave the memory out"):
            wrong()
    with pytest.raises(ValidationError):
        langchain_memrecall.MemRecallRetriever.from_url(filled, "llama", modle="typo")


async def test_a_server_that_is_gone_is_told_by_both_hosts():
    gone = "http://127.0.0.1:9"
    with llama_index_memrecall.MemRecallQueryEngine.from_url(gone, "b") as far:
        with pytest.raises(ServerUnreachableError):
            far.query(QUESTION)
        with pytest.raises(ServerUnreachableError):
            await far.aquery(QUESTION)
    runnable = MemRecallRunnable.from_url(gone, "b")
    with pytest.raises(ServerUnreachableError):
        await runnable.ainvoke(QUESTION)
    runnable.close()
