"""Metadata that are named are judged and read with a text, and stand in no citation."""

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_core.retrievers import BaseRetriever
from memrecall_kv.errors import InputError
from memrecall_kv.types import Heading
from pydantic import ValidationError

from langchain_memrecall import (
    MemRecallDocumentCompressor,
    MemRecallRetriever,
    MemRecallRunnable,
    MemRecallStore,
    create_memrecall_tool,
)
from langchain_memrecall._convert import to_heading

QUESTION = "What was the revenue of Contoso?"
KEYS = ["company", "year"]
TEXT = "It was nine."
SHOWN = "company: Contoso\nyear: 2024\n\n"


@pytest.fixture
def reports():
    return [
        Document(id=name, page_content=TEXT, metadata={"company": name, "year": 2024, "page": 7})
        for name in ("Northwind", "Contoso")
    ]


@pytest.fixture
def judged(memory, monkeypatch):
    """What went through a compressor."""
    seen, compress = [], type(memory)._compress

    def spy(self, chunks):
        seen.extend(chunk.judged_text for chunk in chunks)
        return compress(self, chunks)

    monkeypatch.setattr(type(memory), "_compress", spy)
    return seen


class Found(BaseRetriever):
    documents: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


def through_store(reports, memory, keys, path):
    with_keys = MemRecallStore(path, memory=memory, metadata_keys=keys)
    with_keys.add_documents(reports)
    return with_keys.similarity_search(QUESTION, k=1)


def through_made_store(reports, memory, keys, path):
    made = MemRecallStore.from_documents(reports, bank=path, memory=memory, metadata_keys=keys)
    return made.as_retriever(search_kwargs={"k": 1}).invoke(QUESTION)


def through_retriever(reports, memory, keys, path):
    made = MemRecallRetriever.from_documents(reports, bank=path, memory=memory, k=1, metadata_keys=keys)
    return made.invoke(QUESTION)


def through_runnable(reports, memory, keys, path):
    made = MemRecallRunnable.from_documents(reports, bank=path, memory=memory, top_k=1, metadata_keys=keys)
    return made.invoke(QUESTION)["context"]


def through_given_documents(reports, memory, keys, path):
    made = MemRecallRunnable(memory=memory, top_k=1, metadata_keys=keys)
    return made.invoke({"input": QUESTION, "documents": reports})["context"]


def through_compressor(reports, memory, keys, path):
    compressor = MemRecallDocumentCompressor(memory=memory, top_n=1, metadata_keys=keys)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Found(documents=reports))
    return retriever.invoke(QUESTION)


ROUTES = [
    through_store,
    through_made_store,
    through_retriever,
    through_runnable,
    through_given_documents,
    through_compressor,
]


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_judges_what_is_named_and_gives_back_the_text(reports, worded, judged, tmp_path, route):
    (found,) = route(reports, worded, KEYS, tmp_path / "bank")
    assert sorted(judged) == [SHOWN + TEXT, SHOWN.replace("Contoso", "Northwind") + TEXT]
    assert (found.id, found.page_content) == ("Contoso", TEXT)
    assert found.metadata.items() >= reports[1].metadata.items()


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_judged_that_is_not_named(reports, worded, judged, tmp_path, route):
    route(reports, worded, [], tmp_path / "bank")
    assert judged == [TEXT]


@pytest.mark.parametrize(
    ("metadata", "shown"),
    [
        ({"year": 2024, "company": "Contoso", "page": 3}, SHOWN),
        ({"company": "Contoso\n Ltd. "}, "company: Contoso Ltd.\n\n"),
        ({"company": ["Contoso", "Fabrikam"], "year": None}, "company: Contoso, Fabrikam\n\n"),
        ({"company": "", "year": 0}, "year: 0\n\n"),
        ({"company": " ", "page": 3}, ""),
        ({}, ""),
    ],
)
def test_each_named_value_is_a_line_and_what_is_empty_none(metadata, shown):
    assert to_heading(metadata, KEYS) == Heading(shown, shown)


def test_the_hosts_model_reads_the_text_behind_what_is_named(reports, worded, tmp_path):
    asked = []

    class Recording(FakeListChatModel):
        def _call(self, messages, *args, **kwargs):
            asked.append(str(messages))
            return super()._call(messages, *args, **kwargs)

        def _stream(self, messages, *args, **kwargs):
            asked.append(str([message.content for message in messages]))
            yield from super()._stream(messages, *args, **kwargs)

    runnable = MemRecallRunnable.from_documents(
        reports, bank=tmp_path / "b", memory=worded, top_k=1, metadata_keys=KEYS, llm=Recording(responses=["Nine."])
    )
    assert runnable.invoke(QUESTION)["answer"] == "Nine."
    assert len(asked) == 1
    assert repr(SHOWN + TEXT)[1:-1] in asked[0]


def test_an_agent_reads_them_too_and_the_artifact_has_the_text(reports, worded, tmp_path):
    made = MemRecallRetriever.from_documents(reports, bank=tmp_path / "b", memory=worded, k=1, metadata_keys=KEYS)
    call = {"name": "recall", "args": {"question": QUESTION}, "id": "1", "type": "tool_call"}
    message = create_memrecall_tool(made).invoke(call)
    assert message.content == f"[Contoso] {SHOWN}{TEXT}"
    assert [document.page_content for document in message.artifact] == [TEXT]


def test_a_document_is_compressed_again_when_what_is_named_has_changed(reports, worded, judged, tmp_path):
    store = MemRecallStore(tmp_path / "bank", memory=worded, metadata_keys=KEYS)
    store.add_documents(reports)
    judged.clear()
    reports[0].metadata["page"] = 8
    store.add_documents(reports)
    assert judged == []
    reports[0].metadata["year"] = 2025
    store.add_documents(reports)
    assert judged == [f"company: Northwind\nyear: 2025\n\n{TEXT}"]
    assert MemRecallStore(tmp_path / "bank", memory=worded).get_by_ids(["Northwind"]) == [reports[0]]
    store.close()


def test_the_names_are_saved(tmp_path, worded):
    made = MemRecallRetriever(bank=str(tmp_path), memory=worded, metadata_keys=KEYS)
    assert MemRecallRetriever.load(dumps(made), memory=worded).metadata_keys == tuple(KEYS)


@pytest.mark.parametrize("keys", ["company", [1], {"company": 1}, 3, None])
def test_what_is_no_list_of_names_is_refused(tmp_path, worded, keys):
    with pytest.raises(InputError, match="metadata_keys"):
        MemRecallStore(tmp_path, memory=worded, metadata_keys=keys)
    for made in (MemRecallRetriever, MemRecallRunnable):
        with pytest.raises(ValidationError, match="metadata_keys"):
            made(bank=str(tmp_path), memory=worded, metadata_keys=keys)
    with pytest.raises(ValidationError, match="metadata_keys"):
        MemRecallDocumentCompressor(memory=worded, metadata_keys=keys)
