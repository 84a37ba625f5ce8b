import inspect
import json
from operator import itemgetter

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumps, load
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel, RunnablePassthrough
from memrecall_kv.errors import BankError, InputError
from memrecall_kv.testing import ScriptedReasoner, tiny_memory
from pydantic import ValidationError
from turns import held

from langchain_memrecall import MemRecallRunnable

QUESTION = "Who approves trips?"


class Recorder(BaseCallbackHandler):
    """Counts how many of our runs are open at once, and keeps what is sent."""

    def __init__(self):
        self.open = self.most_open = 0
        self.steps = []
        self.outputs = []
        self.errors = []

    def on_chain_start(self, serialized, inputs, **kwargs):
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    def on_chain_end(self, outputs, **kwargs):
        self.open -= 1
        self.outputs.append(outputs)

    def on_chain_error(self, error, **kwargs):
        self.open -= 1
        self.errors.append(error)

    def on_custom_event(self, name, data, **kwargs):
        assert name == "memrecall_step"
        self.steps.append(data)


def without_seconds(result):
    stages = [{**stage, "seconds": 0.0} for stage in result["usage"]["stages"]]
    return {**result, "usage": {**result["usage"], "seconds": 0.0, "stages": stages}}


def total(chunks):
    result = chunks[0]
    for chunk in chunks[1:]:
        result = result + chunk
    return result


def test_the_result_has_the_answer_its_sources_its_cost_and_every_decision(ask, documents):
    result = ask.invoke(QUESTION)
    texts = {document.id: document.page_content for document in documents}
    assert list(result) == ["input", "context", "answer", "usage", "trace", "quotes"]
    assert result["input"] == QUESTION
    assert [source.metadata["memrecall"]["recall_step"] for source in result["context"]] == [0, 1]
    assert all(isinstance(source, Document) and source.page_content == texts[source.id] for source in result["context"])
    assert result["usage"]["blocks_opened"] == 2
    opened = {step["chunk_id"] for step in result["trace"] if step["opened"]}
    assert opened == {source.metadata["memrecall"]["chunk_id"] for source in result["context"]}
    (quote,) = result["quotes"]
    assert (quote["claim"], quote["verdict"]) == (result["answer"], "not found")
    json.dumps([result["answer"], result["usage"], result["trace"], result["quotes"]])


def test_a_filter_of_the_input_narrows_the_filter_of_the_runnable(memory, bank):
    ask = MemRecallRunnable(bank=bank, memory=memory, top_k=4, filter={"team": "finance"})
    result = ask.invoke({"input": QUESTION, "filter": {"year": 2025}})
    assert [source.id for source in result["context"]] == ["limits"]


def test_a_question_nothing_may_be_recalled_for_gets_an_answer_without_sources(ask):
    result = ask.invoke({"input": QUESTION, "filter": {"team": "nobody"}})
    assert result["context"] == []
    assert result["answer"]
    assert result["usage"]["blocks_opened"] == 0


def test_a_stream_gives_sources_before_text_and_adds_up_to_the_result(ask):
    chunks = list(ask.stream(QUESTION))
    keys = [next(iter(chunk)) for chunk in chunks]
    assert keys == ["input", "context", *["answer"] * (len(keys) - 3), "usage"]
    assert keys.count("answer") >= 1
    assert without_seconds(total(chunks)) == without_seconds(ask.invoke(QUESTION))


async def test_the_async_routes_give_what_the_sync_ones_give(ask):
    expected = without_seconds(ask.invoke(QUESTION))
    assert without_seconds(await ask.ainvoke(QUESTION)) == expected
    assert without_seconds(total([chunk async for chunk in ask.astream(QUESTION)])) == expected


def test_an_answer_that_says_nothing_is_the_not_found_answer(bank):
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: "Nothing relevant."))
    result = MemRecallRunnable(bank=bank, memory=memory, top_k=1).invoke(QUESTION)
    assert result["answer"] == memory.config.reasoner.not_found


def test_without_top_k_the_settings_decide(bank, open_only):
    result = MemRecallRunnable(bank=bank, memory=open_only(17)).invoke(QUESTION)
    assert [source.page_content for source in result["context"]] == ["Lunch is at noon."]


def test_a_stream_can_be_left_early_and_the_model_is_free_again(ask):
    stream = ask.stream(QUESTION)
    assert next(stream) == {"input": QUESTION}
    next(stream)
    stream.close()
    assert ask.invoke(QUESTION)["answer"]


async def test_an_async_stream_can_be_left_early_and_the_model_is_free_again(ask):
    async for chunk in ask.astream(QUESTION):
        if "context" in chunk:
            break
    assert (await ask.ainvoke(QUESTION))["answer"]


def test_steps_are_custom_events_in_the_order_they_happen(ask):
    recorder = Recorder()
    result = ask.invoke({"input": QUESTION, "filter": {"team": "finance"}}, {"callbacks": [recorder]})
    opened = [step["chunk_id"] for step in recorder.steps if step["stage"] == "opened"]
    assert {step["stage"] for step in recorder.steps} == {"scored", "opened", "noted", "finished"}
    assert opened == [source.metadata["memrecall"]["chunk_id"] for source in result["context"]]
    judged = [step for step in recorder.steps if step["stage"] in ("scored", "opened")]
    assert all(0.0 <= step["gate_probability"] <= 1.0 for step in judged)
    assert (recorder.steps[-1]["stage"], recorder.steps[-1]["usage"]) == ("finished", result["usage"])


async def test_astream_events_has_steps_pieces_and_the_whole_output(ask):
    events = [event async for event in ask.astream_events(QUESTION, version="v2")]
    by_kind = {}
    for event in events:
        by_kind.setdefault(event["event"], []).append(event)
    assert {event["name"] for event in by_kind["on_custom_event"]} == {"memrecall_step"}
    output = by_kind["on_chain_end"][-1]["data"]["output"]
    assert set(output) == {"input", "context", "answer", "usage", "trace", "quotes"}
    pieces = [event["data"]["chunk"].get("answer", "") for event in by_kind["on_chain_stream"]]
    assert "".join(pieces) == output["answer"]


def test_it_streams_as_a_part_of_a_chain_whose_input_comes_in_pieces(ask):
    chain = RunnableLambda(lambda text: iter(text.split())) | RunnableLambda(" ".join) | ask | itemgetter("answer")
    assert chain.invoke(QUESTION) == ask.invoke(QUESTION)["answer"]
    pieces = iter(["Who approves ", "trips?"])
    assert total(list(ask.transform(pieces)))["input"] == QUESTION


def test_it_takes_the_chunks_of_a_parallel_step(ask):
    chain = RunnableParallel(question=RunnablePassthrough(), filter=RunnableLambda(lambda _: {"team": "finance"})) | ask
    assert {source.metadata["team"] for source in total(list(chain.stream(QUESTION)))["context"]} == {"finance"}


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_batch_runs_as_many_inputs_at_a_time_as_the_config_says(ask, scripted, width):
    recorder = Recorder()
    questions = [QUESTION, "When is lunch?", "What is broken?", "What is the limit?"]
    config = {"callbacks": [recorder], "max_concurrency": width}
    with held(scripted.backbone.scheduler, width):
        results = ask.batch(questions, config)
    assert [result["input"] for result in results] == questions
    assert recorder.most_open == width
    with held(scripted.backbone.scheduler, width):
        completed = dict(ask.batch_as_completed(questions, config))
    assert {index: result["input"] for index, result in completed.items()} == dict(enumerate(questions))
    assert recorder.most_open == width


@pytest.mark.parametrize("width", [1, 2, 4])
async def test_an_async_batch_runs_as_many_inputs_at_a_time_as_the_config_says(ask, scripted, width):
    recorder = Recorder()
    questions = [QUESTION, "When is lunch?", "What is broken?", "What is the limit?"]
    config = {"callbacks": [recorder], "max_concurrency": width}
    with held(scripted.backbone.scheduler, width):
        results = await ask.abatch(questions, config)
    assert [result["input"] for result in results] == questions
    completed = [index async for index, _ in ask.abatch_as_completed(questions, config)]
    assert sorted(completed) == [0, 1, 2, 3]
    assert recorder.most_open == width


async def test_a_batch_can_return_its_errors(ask):
    inputs = [QUESTION, {"no": "question"}, "When is lunch?"]
    completed = dict(ask.batch_as_completed(inputs, return_exceptions=True))
    acompleted = dict([pair async for pair in ask.abatch_as_completed(inputs, return_exceptions=True)])
    for results in (
        ask.batch(inputs, return_exceptions=True),
        await ask.abatch(inputs, return_exceptions=True),
        [completed[place] for place in range(3)],
        [acompleted[place] for place in range(3)],
    ):
        assert [type(result) for result in results] == [dict, InputError, dict]
    assert (ask.batch([]), await ask.abatch([])) == ([], [])


async def test_after_an_error_a_batch_does_not_begin_all_that_waits(ask):
    recorder = Recorder()
    inputs, config = [{"no": "question"}, *[QUESTION] * 8], {"callbacks": [recorder], "max_concurrency": 1}
    with pytest.raises(InputError):
        ask.batch(inputs, config)
    assert len(recorder.errors) == 1
    assert len(recorder.outputs) < 8
    with pytest.raises(InputError):
        await ask.abatch(inputs[:1], config)


def test_a_batch_of_a_chain_runs_our_part_together(ask, scripted):
    recorder = Recorder()
    chain = RunnableLambda(str.strip) | ask.with_config(callbacks=[recorder]) | itemgetter("answer")
    with held(scripted.backbone.scheduler, 3):
        answers = chain.batch([f" {QUESTION}"] * 3, {"max_concurrency": 3})
    assert answers == ["Dana Whitfield does."] * 3
    assert (recorder.most_open, len(recorder.outputs)) == (3, 3)


def test_a_batch_keeps_each_input_to_its_own_config(ask):
    recorders = [Recorder(), Recorder()]
    ask.batch([QUESTION, "When is lunch?"], [{"callbacks": [recorder]} for recorder in recorders])
    assert [recorder.outputs[0]["input"] for recorder in recorders] == [QUESTION, "When is lunch?"]


def test_settings_are_saved_and_loaded_without_the_model(memory, bank):
    recent = {"$or": [{"team": "finance"}, {"year": {"$gte": 2024}}]}
    ask = MemRecallRunnable(bank=bank, memory=memory, name_or_path="some/model", top_k=3, filter=recent)
    saved = dumps(ask)
    assert json.loads(saved)["id"] == ["langchain_memrecall", "runnable", "MemRecallRunnable"]
    assert json.loads(saved)["kwargs"] == {
        "bank": str(bank.path),
        "name_or_path": "some/model",
        "device": "auto",
        "top_k": 3,
        "filter": recent,
    }
    loaded = MemRecallRunnable.load(saved)
    assert loaded.model_dump() == ask.model_dump()
    assert loaded.memory is None


@pytest.mark.skipif("allowed_objects" not in inspect.signature(load).parameters, reason="since langchain-core 1.2.5")
def test_langchain_refuses_to_load_it_unless_it_is_allowed_by_name(memory, bank):
    from langchain_core._api import suppress_langchain_beta_warning
    from langchain_core.load import loads

    saved = dumps(MemRecallRunnable(bank=bank, memory=memory))
    with suppress_langchain_beta_warning():
        with pytest.raises(ValueError, match="not allowed"):
            loads(saved, allowed_objects="core", valid_namespaces=["langchain_memrecall"])
        with pytest.raises(ValueError, match="namespace"):
            loads(saved, allowed_objects=[MemRecallRunnable])
        both = loads(saved, allowed_objects=[MemRecallRunnable], valid_namespaces=["langchain_memrecall"])
    assert both.bank == str(bank.path)


def test_loading_refuses_what_is_something_else():
    saved = dumps(Document(page_content="not a runnable"))
    with pytest.raises(ValueError, match="not allowed"):
        MemRecallRunnable.load(saved)


def test_a_loaded_runnable_answers_once_it_has_a_memory(memory, bank):
    saved = dumps(MemRecallRunnable(bank=bank, memory=memory, top_k=1))
    again = MemRecallRunnable(**{**MemRecallRunnable.load(saved).model_dump(), "memory": memory})
    assert len(again.invoke(QUESTION)["context"]) == 1
    again.close()


def test_a_setting_can_be_made_configurable(memory, bank):
    ask = MemRecallRunnable(bank=bank, memory=memory, top_k=1).configurable_fields(
        top_k=ConfigurableField(id="top_k", name="blocks")
    )
    assert len(ask.with_config(configurable={"top_k": 3}).invoke(QUESTION)["context"]) == 3
    with pytest.raises(ValidationError):
        ask.invoke(QUESTION, {"configurable": {"top_k": 0}})


async def test_an_argument_of_a_call_that_does_not_exist_is_refused_by_name(ask):
    with pytest.raises(TypeError, match="filter"):
        ask.invoke(QUESTION, filter={"team": "finance"})  # it belongs into the input
    with pytest.raises(TypeError, match="filter"):
        await ask.ainvoke(QUESTION, filter={"team": "finance"})
    with pytest.raises(TypeError, match="filter"):
        list(ask.stream(QUESTION, filter={"team": "finance"}))


@pytest.mark.parametrize(
    "settings",
    [{"k": 3}, {"top_k": 0}, {"bank": ""}, {"bank": []}, {"llm": "gpt"}, {"prompt": "{context}"}, {"modle": "x"}],
)
def test_a_mistyped_or_impossible_setting_is_refused(memory, bank, settings):
    with pytest.raises(ValidationError):
        MemRecallRunnable(**{"bank": bank, "memory": memory, **settings})


def test_making_one_loads_neither_model_nor_bank(tmp_path):
    MemRecallRunnable(bank=tmp_path / "nowhere", name_or_path="no/such/model")
    assert not (tmp_path / "nowhere").exists()


async def test_an_error_of_the_core_passes_through_every_route(memory, tmp_path):
    ask = MemRecallRunnable(bank=tmp_path / "nowhere", memory=memory)
    recorder = Recorder()
    with pytest.raises(BankError):
        ask.invoke(QUESTION, {"callbacks": [recorder]})
    with pytest.raises(BankError):
        list(ask.stream(QUESTION, {"callbacks": [recorder]}))
    with pytest.raises(BankError):
        await ask.ainvoke(QUESTION, {"callbacks": [recorder]})
    with pytest.raises(BankError):
        [chunk async for chunk in ask.astream(QUESTION, {"callbacks": [recorder]})]
    assert len(recorder.errors) == 4


def test_closing_closes_only_the_bank_it_opened_itself(memory, bank):
    MemRecallRunnable(bank=bank, memory=memory).close()
    own = MemRecallRunnable(bank=bank.path, memory=memory, top_k=1)
    own.invoke(QUESTION)
    own.close()
    assert len(bank) == 4
