from pathlib import Path

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable
from memrecall_kv.errors import FingerprintMismatchError, InputError
from memrecall_kv.testing import tiny_backbone, tiny_memory
from pydantic import ValidationError

from langchain_memrecall import MemRecallDocumentCompressor, MemRecallRetriever

QUESTION = "Who approves trips?"


@pytest.fixture
def compressor(memory):
    made = MemRecallDocumentCompressor(memory=memory, top_n=2)
    yield made
    made.close()


def test_it_is_a_compressor_and_no_runnable(compressor):
    assert isinstance(compressor, BaseDocumentCompressor)
    assert not isinstance(compressor, Runnable)


def test_exactly_n_copies_come_back_with_score_and_step(compressor, documents):
    before = [document.model_copy(deep=True) for document in documents]
    kept = compressor.compress_documents(documents, QUESTION)
    by_id = {document.id: document for document in documents}
    assert [document.metadata["memrecall"]["recall_step"] for document in kept] == [0, 1]
    for document in kept:
        metadata = dict(document.metadata)
        assert 0.0 <= metadata.pop("memrecall")["score"] <= 1.0
        assert (document.page_content, metadata) == (by_id[document.id].page_content, by_id[document.id].metadata)
    assert documents == before


async def test_the_async_route_keeps_what_the_sync_one_keeps(compressor, documents):
    assert await compressor.acompress_documents(documents, QUESTION) == compressor.compress_documents(
        documents, QUESTION
    )


def test_without_n_the_settings_decide(open_only, documents):
    compressor = MemRecallDocumentCompressor(memory=open_only(17))
    assert [document.id for document in compressor.compress_documents(documents, QUESTION)] == ["lunch"]
    compressor.close()


def test_a_document_longer_than_a_chunk_counts_once(compressor):
    long = Document(id="long", page_content="Trips are approved by Dana. " * 20)
    kept = compressor.compress_documents([long, Document(id="short", page_content="Lunch is at noon.")], QUESTION)
    assert {document.id for document in kept} == {"long", "short"}
    assert next(document for document in kept if document.id == "long").page_content == long.page_content


def test_equal_texts_are_judged_once_and_both_kept_but_the_same_document_only_once(memory):
    same = [Document(id=name, page_content="Dana approves trips.") for name in ("a", "b", "a")]
    compressor = MemRecallDocumentCompressor(memory=memory, top_n=5)
    assert [document.id for document in compressor.compress_documents(same, QUESTION)] == ["a", "b"]
    compressor.close()


def test_no_documents_or_none_with_text_load_nothing_and_give_nothing():
    compressor = MemRecallDocumentCompressor(name_or_path="no/such/model")
    assert compressor.compress_documents([], QUESTION) == []
    assert compressor.compress_documents([Document(page_content=" ")], QUESTION) == []


def test_more_than_there_are_gives_all_with_text(memory, documents):
    compressor = MemRecallDocumentCompressor(memory=memory, top_n=50)
    kept = compressor.compress_documents([*documents, Document(page_content="")], QUESTION)
    assert sorted(document.id for document in kept) == sorted(document.id for document in documents)
    compressor.close()


@pytest.mark.parametrize("settings", [{"top_n": 0}, {"top_n": -1}, {"k": 3}])
def test_a_mistyped_or_impossible_setting_is_refused(memory, settings):
    with pytest.raises(ValidationError):
        MemRecallDocumentCompressor(memory=memory, **settings)


@pytest.mark.parametrize(("documents", "question"), [([Document(page_content="a")], " "), (["a text"], QUESTION)])
def test_what_cannot_be_judged_is_refused(compressor, documents, question):
    with pytest.raises(InputError, match="Expected"):
        compressor.compress_documents(documents, question)


def test_a_document_seen_before_is_not_compressed_again_and_no_longer_recalled(compressor, compressions):
    compressor.compress_documents([Document(page_content="Ada pays."), Document(page_content="Bo signs.")], QUESTION)
    kept = compressor.compress_documents([Document(page_content="Bo signs.")], QUESTION)
    assert [document.page_content for document in kept] == ["Bo signs."]
    assert compressions == ["Ada pays.", "Bo signs."]


def test_a_cache_of_another_model_is_refused(memory, documents, tmp_path):
    MemRecallDocumentCompressor(memory=memory, cache_path=str(tmp_path)).compress_documents(documents, QUESTION)
    other = MemRecallDocumentCompressor(memory=tiny_memory(backbone=tiny_backbone(seed=1)), cache_path=str(tmp_path))
    with pytest.raises(FingerprintMismatchError):
        other.compress_documents(documents, QUESTION)


def test_a_cache_with_a_path_is_kept_and_a_temporary_one_goes_with_close(memory, documents, tmp_path):
    kept = MemRecallDocumentCompressor(memory=memory, cache_path=str(tmp_path / "cache"))
    kept.compress_documents(documents, QUESTION)
    kept.close()
    assert (tmp_path / "cache").is_dir()
    temporary = MemRecallDocumentCompressor(memory=memory)
    temporary.compress_documents(documents, QUESTION)
    path = Path(temporary._cache.keep([])[0].path)
    temporary.close()
    assert not path.exists()


class Runs(BaseCallbackHandler):
    def __init__(self):
        self.parents, self.stages = {}, []

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id, name=None, **kwargs):
        self.parents[name] = parent_run_id

    def on_retriever_start(self, serialized, query, *, run_id, parent_run_id, name=None, **kwargs):
        self.parents[name] = parent_run_id
        if parent_run_id is None:
            self.root = run_id

    def on_custom_event(self, name, data, **kwargs):
        self.stages.append(data["stage"])


@pytest.mark.parametrize("is_async", [False, True])
async def test_langchains_compression_retriever_runs_it_below_itself(memory, bank, compressor, is_async):
    base = MemRecallRetriever(bank=bank, memory=memory, k=4)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=base)
    runs = Runs()
    config = {"callbacks": [runs]}
    found = await retriever.ainvoke(QUESTION, config) if is_async else retriever.invoke(QUESTION, config)
    assert len(found) == 2
    assert runs.parents["MemRecallDocumentCompressor"] == runs.root
    assert "opened" in runs.stages


def test_it_is_a_part_of_langchains_pipeline(compressor, documents):
    pipeline = DocumentCompressorPipeline(transformers=[compressor])
    assert pipeline.compress_documents(documents, QUESTION) == compressor.compress_documents(documents, QUESTION)


async def test_the_loop_goes_on_while_the_gate_reads(documents, waiting, meanwhile):
    compressor = MemRecallDocumentCompressor(memory=waiting[0], top_n=1)
    assert len(await meanwhile(compressor.acompress_documents(documents, QUESTION))) == 1
    compressor.close()
