"""What LlamaIndex shows embedding models of a node is judged, what it shows LLMs is read, its text alone is cited."""

import copy

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from memrecall_kv.types import Heading

from llama_index_memrecall import (
    MemoryBlockEncoder,
    MemRecallIndex,
    MemRecallPostprocessor,
    MemRecallQueryEngine,
    MemRecallRetriever,
)
from llama_index_memrecall._heading import to_heading

QUESTION = "Who approves trips?"
SHOWN = {"company": "Contoso", "year": 2024}


def node(text="Dana approves trips.", metadata=SHOWN, **formatting):
    return TextNode(id_="n", text=text, metadata=metadata, **formatting)


@pytest.fixture
def judged(memory, monkeypatch):
    """What went through a compressor."""
    seen, compress = [], type(memory)._compress

    def spy(self, chunks):
        seen.extend(chunk.judged_text for chunk in chunks)
        return compress(self, chunks)

    monkeypatch.setattr(type(memory), "_compress", spy)
    return seen


@pytest.mark.parametrize(
    "formatting",
    [
        {},
        {"excluded_embed_metadata_keys": ["year"]},
        {"excluded_llm_metadata_keys": ["company"]},
        {"excluded_embed_metadata_keys": ["year", "company"], "excluded_llm_metadata_keys": ["year", "company"]},
        {"metadata_template": "<{key}>{value}</{key}>", "metadata_separator": " | "},
        {"text_template": "Metadata: {metadata_str}\n-----\nContent: {content}"},
        {"text_template": "[{metadata_str}] {content}"},
        {"text_template": "{metadata_str}{content}"},
    ],
)
@pytest.mark.parametrize("text", ["Dana approves trips.", "  An indented line.", "2024", "company: Contoso"])
def test_heading_and_text_are_what_the_host_shows(formatting, text):
    given = node(text, **formatting)
    before = copy.deepcopy(given)
    heading = to_heading(given)
    assert heading.judged + text == given.get_content(MetadataMode.EMBED)
    assert heading.read + text == given.get_content(MetadataMode.LLM)
    assert given == before


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{content}\n\n{metadata_str}", "company: Contoso\nyear: 2024\n\n"),
        ("{content} ({metadata_str})", "(company: Contoso\nyear: 2024)\n\n"),
        ("Text: {content}\nAbout: {metadata_str}", "About: company: Contoso\nyear: 2024\n\nText: "),
        ("<d>{metadata_str}</d><t>{content}</t>", "<d>company: Contoso\nyear: 2024</d><t>"),
        ("{content}", ""),
        ("{content}\n{metadata_str}\n{content}", "company: Contoso\nyear: 2024\n\n"),
        ("nothing", "company: Contoso\nyear: 2024\n\n"),
    ],
)
def test_what_a_template_puts_behind_the_text_comes_in_front(template, shown):
    assert to_heading(node(text_template=template)) == Heading(shown, shown)


def test_a_class_that_shows_its_text_otherwise_has_its_metadata_in_front():
    class Shouting(TextNode):
        def get_content(self, metadata_mode=MetadataMode.NONE):
            return super().get_content(metadata_mode).upper()

    heading = to_heading(Shouting(text="Dana approves trips.", metadata=SHOWN))
    assert heading.judged == heading.read == "company: Contoso\nyear: 2024\n\n"


@pytest.mark.parametrize("kind", [TextNode, IndexNode, Document])
def test_every_kind_of_node_has_its_heading(kind):
    given = kind(text="Dana approves trips.", metadata=SHOWN, **({"index_id": "i"} if kind is IndexNode else {}))
    assert to_heading(given).judged + given.text == given.get_content(MetadataMode.EMBED)
    assert to_heading(kind(text="Dana.", **({"index_id": "i"} if kind is IndexNode else {}))) == Heading()


class Found(BaseRetriever):
    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=node) for node in self.nodes]


def through_index(given, memory, path):
    return MemRecallIndex(given, memory=memory).as_retriever(top_k=1).retrieve(QUESTION)


def through_chat(given, memory, path):
    index = MemRecallIndex(given, memory=memory)
    history = ChatMemoryBuffer.from_defaults(token_limit=8000)  # without a database, which nobody would close
    return index.as_chat_engine("context", llm=MockLLM(), top_k=1, memory=history).chat(QUESTION).source_nodes


def through_engine(given, memory, path):
    return MemRecallQueryEngine.from_nodes(given, memory=memory, top_k=1).query(QUESTION).source_nodes


def through_their_index(given, memory, path):
    index = VectorStoreIndex(given, embed_model=MockEmbedding(embed_dim=4))
    return MemRecallRetriever.from_index(index, memory=memory, top_k=1).retrieve(QUESTION)


def through_their_retriever(given, memory, path):
    return MemRecallRetriever.from_args(Found(given), memory=memory, top_k=1).retrieve(QUESTION)


def through_synthesize(given, memory, path):
    engine = MemRecallQueryEngine(None, memory=memory, top_k=1)
    return engine.synthesize(QueryBundle(QUESTION), [NodeWithScore(node=node) for node in given]).source_nodes


def through_postprocessor(given, memory, path):
    found = [NodeWithScore(node=node) for node in given]
    return MemRecallPostprocessor(memory=memory, top_n=1).postprocess_nodes(found, query_str=QUESTION)


def through_pipeline(given, memory, path):
    IngestionPipeline(transformations=[MemoryBlockEncoder(bank=path, memory=memory)]).run(nodes=given)
    return MemRecallRetriever.from_bank(path, memory=memory, top_k=1).retrieve(QUESTION)


ROUTES = [
    through_index,
    through_chat,
    through_engine,
    through_their_index,
    through_their_retriever,
    through_synthesize,
    through_postprocessor,
    through_pipeline,
]


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_judges_what_an_embedding_model_would_see(memory, judged, tmp_path, route):
    given = node(excluded_embed_metadata_keys=["year"], excluded_llm_metadata_keys=["company"])
    (source,) = route([given], memory, str(tmp_path / "bank"))
    assert judged == ["company: Contoso\n\nDana approves trips."]
    assert (source.node_id, source.text) == ("n", "Dana approves trips.")
    assert source.get_content(MetadataMode.LLM) == "year: 2024\n\nDana approves trips."


def test_documents_are_judged_and_read_chunk_by_chunk_under_their_heading(memory, judged):
    text = "".join(f"{name} approves trips. " for name in ("Dana", "Ines", "Omar", "Vera", "Paul", "Lena"))
    engine = MemRecallQueryEngine.from_documents([Document(text=text, metadata={"year": 2024})], memory=memory, top_k=9)
    sources = engine.query(QUESTION).source_nodes
    assert len(sources) > 2
    assert all(seen.startswith("year: 2024\n\n") for seen in judged)
    assert "".join(source.text for source in sorted(sources, key=lambda s: s.node.start_char_idx)) == text
    engine.close()


@pytest.mark.parametrize("route", [through_index, through_their_retriever])
def test_nodes_that_differ_in_metadata_alone_are_judged_apart(memory, judged, tmp_path, route):
    given = [TextNode(id_=name, text="Nine.", metadata={"company": name}) for name in ("Contoso", "Fabrikam")]
    route(given, memory, str(tmp_path))
    assert judged == ["company: Contoso\n\nNine.", "company: Fabrikam\n\nNine."]


def test_only_a_document_whose_metadata_changed_is_compressed_again(memory, judged):
    documents = [Document(id_=name, text="Nine.", metadata={"company": name}) for name in ("Contoso", "Fabrikam")]
    index = MemRecallIndex.from_documents(documents, memory=memory)
    judged.clear()
    documents[1].metadata["company"] = "Northwind"
    assert index.refresh_ref_docs(documents) == [False, True]
    index.as_retriever().retrieve(QUESTION)
    assert judged == ["company: Northwind\n\nNine."]
    index.close()


def test_an_index_that_is_loaded_follows_what_its_nodes_show_now(memory, judged, tmp_path):
    storage = StorageContext.from_defaults()
    index = MemRecallIndex([node()], memory=memory, storage_context=storage, bank=tmp_path / "bank")
    index.close()
    storage.docstore.add_documents([node(text_template="{metadata_str}: {content}")])
    loaded = MemRecallIndex(index_struct=index.index_struct, memory=memory, storage_context=storage)
    assert len(loaded.as_retriever().retrieve(QUESTION)) == 1
    assert judged[1:] == ["company: Contoso\nyear: 2024: Dana approves trips."]
    loaded.close()
