"""`langchain_core.indexing.index` over our store compresses what changed, and what is gone is recalled by no route."""

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from memrecall_kv.testing import ScriptedReasoner, tiny_memory

from langchain_memrecall import (
    MemRecallDocumentCompressor,
    MemRecallRetriever,
    MemRecallRunnable,
    MemRecallStore,
    create_memrecall_tool,
)

QUESTION = "Who does job 1?"


@pytest.fixture
def worded(worded):
    """A memory that answers with all it has read."""
    notes = {text: text for text in ("Person 1 does job 1.", "Somebody else left.")}
    reasoner = ScriptedReasoner(notes, lambda question, known: known)
    return tiny_memory(worded.config, backbone=worded.backbone, reasoner=reasoner)


@pytest.fixture
def store(worded, tmp_path):
    made = MemRecallStore(tmp_path / "bank", memory=worded)
    yield made
    made.close()


@pytest.fixture(params=["index", "aindex"])
def run(request, store):
    """Returns what indexes pages, always with the same records."""
    records = InMemoryRecordManager("memory")
    records.create_schema()

    async def indexed(pages, cleanup, **options):
        options = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "sha256", **options}
        if request.param == "aindex":
            return dict(await aindex(pages, records, store, **options))
        return dict(index(pages, records, store, **options))

    return indexed


def page(number, source, text="Person {n} does job {n}."):
    return Document(page_content=text.format(n=number), metadata={"source": source})


async def texts_recalled(store, worded, path):
    """Every text that some route over a bank gives back, and the answers."""
    ask = MemRecallRunnable(bank=path, memory=worded, top_k=50)
    retriever = MemRecallRetriever(bank=path, memory=worded, k=50)
    compressor = MemRecallDocumentCompressor(memory=worded, top_n=50)
    fresh = MemRecallStore(path, memory=worded)
    call = {"name": "recall", "args": {"question": QUESTION}, "id": "1", "type": "tool_call"}
    results = [ask.invoke(QUESTION), await ask.ainvoke(QUESTION), *ask.batch([QUESTION, "job"])]
    routes = [
        *[result["context"] for result in results],
        [source for chunk in ask.stream(QUESTION) for source in chunk.get("context", [])],
        retriever.invoke(QUESTION),
        await retriever.ainvoke(QUESTION),
        create_memrecall_tool(retriever).invoke(call).artifact,
        store.similarity_search(QUESTION, k=50),
        await store.asimilarity_search(QUESTION, k=50),
        fresh.as_retriever(search_kwargs={"k": 50}).invoke(QUESTION),
    ]
    routes.append(compressor.compress_documents(routes[0], QUESTION))
    for opened in (ask, retriever, compressor, fresh):
        opened.close()
    found = [{document.page_content for document in route} for route in routes]
    assert all(texts == found[0] for texts in found)
    return found[0], " ".join(result["answer"] for result in results)


KEPT = ["Person 0 does job 0.", "Person 2 does job 2.", "Somebody else left."]


@pytest.mark.parametrize(
    ("cleanup", "also_kept", "deleted"),
    [
        (None, {"Person 1 does job 1.", "Person 3 does job 3."}, 0),
        ("incremental", {"Person 3 does job 3."}, 1),
        ("scoped_full", {"Person 3 does job 3."}, 1),
        ("full", set(), 2),
    ],
)
async def test_only_what_changed_is_compressed_and_what_is_cleaned_up_comes_back_by_no_route(
    run, store, worded, compressions, tmp_path, cleanup, also_kept, deleted
):
    before = [page(0, "a"), page(1, "a"), page(2, "b"), page(3, "c")]
    assert (await run(before, cleanup))["num_added"] == 4
    compressions.clear()
    after = [before[0], page(1, "a", "Somebody else left."), before[2]]
    result = await run(after, cleanup)
    assert result == {"num_added": 1, "num_updated": 0, "num_skipped": 2, "num_deleted": deleted}
    assert compressions == ["Somebody else left."]
    recalled, answers = await texts_recalled(store, worded, tmp_path / "bank")
    assert recalled == {*KEPT, *also_kept}
    assert "left" in answers
    assert ("job 1" in answers) == (cleanup is None)


async def test_indexing_nothing_in_full_forgets_everything(run, store, worded, tmp_path):
    await run([page(0, "a"), page(1, "b")], "full")
    assert (await run([], "full"))["num_deleted"] == 2
    recalled, answers = await texts_recalled(store, worded, tmp_path / "bank")
    assert recalled == set()
    assert answers == " ".join([worded.config.reasoner.not_found] * 4)


async def test_an_update_by_force_compresses_nothing_that_is_as_it_was(run, compressions):
    pages = [page(number, "a") for number in range(3)]
    await run(pages, "incremental")
    compressions.clear()
    assert (await run(pages, "incremental", force_update=True))["num_updated"] == 3
    assert compressions == []


async def test_one_page_of_many_changed_is_one_page_compressed(run, store, compressions):
    pages = [page(number, f"s{number}") for number in range(100)]
    await run(pages, "incremental")
    compressions.clear()
    pages[42] = page(42, "s42", "Dana approves trips.")
    result = await run(pages, "incremental", batch_size=7)
    assert result == {"num_added": 1, "num_updated": 0, "num_skipped": 99, "num_deleted": 1}
    assert compressions == ["Dana approves trips."]
    assert len(store.similarity_search("job", k=200)) == 100


async def test_deleting_by_hand_is_forgetting_by_every_route(store, worded, tmp_path):
    ids = store.add_documents([page(0, "a"), page(1, "a"), page(2, "b")])
    store.delete(ids[1:2])
    await store.adelete(ids[2:])
    store.add_documents([page(1, "a", "Somebody else left.")])
    recalled, answers = await texts_recalled(store, worded, tmp_path / "bank")
    assert recalled == {"Person 0 does job 0.", "Somebody else left."}
    assert "left" in answers
    assert "job 1" not in answers
    assert [document.page_content for document in store.get_by_ids(ids)] == ["Person 0 does job 0."]


def test_a_reader_that_is_open_sees_deletions_at_once(store, worded, documents, tmp_path):
    store.add_documents(documents)
    ask = MemRecallRunnable(bank=tmp_path / "bank", memory=worded, top_k=9)
    assert len(ask.invoke(QUESTION)["context"]) == 4
    store.delete(["travel"])
    assert "travel" not in {document.id for document in ask.invoke(QUESTION)["context"]}
    ask.close()


def test_a_replaced_text_is_found_by_its_new_words_and_not_by_its_old_ones(store):
    store.add_documents([Document(id="a", page_content="apples"), Document(id="b", page_content="pears")])
    assert store.similarity_search("apples", k=1)[0].id == "a"
    store.add_documents([Document(id="a", page_content="pears"), Document(id="b", page_content="apples")])
    assert store.similarity_search("apples", k=1)[0].id == "b"
