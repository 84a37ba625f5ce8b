"""A server is measured by the code that measures systems here, ours and anybody's in OpenAI's form."""

import gzip
import json
import re

import pytest
from loopback import Saying, serving
from memrecall_kv.config import ChunkingConfig, GateConfig, MemRecallConfig, ReasonerConfig, ScanConfig
from memrecall_kv.errors import AccessDeniedError, ConfigError, RemoteError
from memrecall_kv.evaluate.run import Run
from memrecall_kv.evaluate.settings import RunConfig
from memrecall_kv.evaluate.systems.systems import build_system
from memrecall_kv.testing import ScriptedReasoner, tiny_backbone, tiny_memory
from memrecall_kv.types import Document

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

CONFIG = MemRecallConfig(
    chunking=ChunkingConfig(chunk_tokens=256),
    gate=GateConfig(threshold=0.0),
    scan=ScanConfig(top_k=2),
    reasoner=ReasonerConfig(max_note_tokens=4, max_answer_tokens=4),
)
JSON = {"content-type": "application/json"}
DOCUMENTS = [Document("d1", "Dana approves trips. " * 30), Document("d2", "Lunch is at noon. " * 30)]


@pytest.fixture(scope="module")
def opened():
    backbone = tiny_backbone()
    return lambda config: tiny_memory(config or CONFIG, backbone=backbone)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with three questions of ruler-hqa."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "id": f"q{number}",
            "question": f"In which town was the author of Book{number} born?",
            "answers": [f"Town{number}"],
            "type": "bridge",
            "paragraphs": [
                {"title": f"Person{number}", "text": f"Person{number} was born in Town{number}.", "supporting": True},
                {"title": f"Book{number}", "text": f"Book{number} is by Person{number}.", "supporting": True},
                {"title": f"Mill {number}", "text": f"A mill stands at river {number}.", "supporting": False},
            ],
        }
        for number in range(3)
    ]
    pool = [{"title": f"Page {n}", "text": f"Page {n} tells of a valley and its {n} bridges."} for n in range(40)]
    for name, its in {"qa/hotpotqa_dev.jsonl.gz": rows, "text/wikipedia_pool.jsonl.gz": pool}.items():
        (folder / name).parent.mkdir()
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in its)
    return folder


def completion(text, **more):
    said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}], **more}
    return 200, JSON, json.dumps(said).encode()


def messages(server):
    return [json.loads(body)["messages"][0]["content"] for *_, body in server.requests]


def test_a_served_bank_is_measured_as_the_pipeline_is_here(opened, data, tmp_path):
    backbone = opened(None).backbone
    reasoner = ScriptedReasoner({}, lambda question, notes: re.sub(r".*Book(.).*", r"Town\1", question))

    def answering(config):
        return tiny_memory(config or CONFIG, backbone=backbone, reasoner=reasoner)

    with serving(answering(None), tmp_path / "handbook.bank") as url:
        served = f"served:url={url}/v1,model=handbook"
        config = RunConfig(tasks=("ruler-hqa",), systems=("memrecall", served), lengths=((6, 3),))
        ledger = Run(tmp_path / "out", answering, data, config).run()
    answers = {"memrecall": [], served: []}
    for row in ledger:
        if row["kind"] == "answer":
            told = ("question", "reply", "found", "scores", "tokens_read", "tokens_written")
            evidence = {name: row["evidence"][name] for name in ("recall", "precision")}
            answers[row["system"]].append([*map(row.get, told), evidence])
    assert sorted(answer[1:3] for answer in answers[served]) == [[f"Town{number}", True] for number in range(3)]
    assert answers[served] == answers["memrecall"]


def test_a_bank_of_other_documents_answers_from_those_that_were_prepared(opened, tmp_path):
    with serving(opened(None), tmp_path / "handbook.bank") as url:
        system = build_system(f"served:url={url},model=handbook", opened)
        system.prepare(DOCUMENTS, tmp_path)
        prepared = system.prepare(DOCUMENTS[1:], tmp_path)
        reply = system.answer("Who approves trips?")
        system.close()
    assert prepared.reused
    assert reply.evidence == ("d2",)
    assert all("noon" in text for text in reply.cited)


def test_memagents_loop_runs_through_any_endpoint(opened, tmp_path):
    notes = completion("thinking</think> Dana does.", usage={"prompt_tokens": 7, "completion_tokens": 2})
    with Saying.listening(notes) as server:
        spec = f"served-memagent:url={server.url}/v1,model=org/any,chunk_tokens=600,memory_tokens=16,answer_tokens=8"
        system = build_system(spec, opened)
        system.prepare(DOCUMENTS, tmp_path)
        first, second = system.answer_together([system.start(text) for text in ("Who?", "When?")])
        system.close()
    asked = messages(server)
    steps = len(asked) // 2
    assert steps >= 3
    assert first.text == second.text == "thinking</think> Dana does."
    assert (first.tokens_read, first.tokens_written) == (7 * steps, 2 * steps)
    assert sum("<memory>Dana does.</memory>" in text for text in asked) == 2 * (steps - 1)
    sent = json.loads(server.requests[-1][-1])
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("org/any", 0.0, 8)
    assert [json.loads(body)["max_tokens"] for *_, body in server.requests].count(16) == 2 * (steps - 1)


def test_all_documents_are_sent_to_any_endpoint_cut_in_the_middle(opened, tmp_path):
    with Saying.listening(completion("Dana."), completion("Not stated in the text.")) as server:
        spec = f"served-full-context:url={server.url}/v1,model=any,context_tokens=400"
        system = build_system(spec, opened)
        system.prepare(DOCUMENTS, tmp_path)
        reply, refusal = (system.answer(text) for text in ("Who approves trips?", "When is tea?"))
        system.close()
    assert (reply.text, reply.found, reply.evidence) == ("Dana.", True, None)
    assert not refusal.found
    first, second = messages(server)
    assert "Dana approves" in first
    assert "noon" in first
    assert len(first) < 600
    assert first.replace("Who approves trips?", "When is tea?") == second


def test_what_goes_wrong_at_an_endpoint_is_told(opened, tmp_path):
    with pytest.raises(ConfigError, match="url"):
        build_system("served:model=any", opened)
    with Saying.listening((401, JSON, b"{}"), (200, JSON, b'{"choices": 3}')) as server:
        system = build_system(f"served-full-context:url={server.url},model=any", opened)
        system.prepare(DOCUMENTS, tmp_path)
        with pytest.raises(AccessDeniedError, match="401"):
            system.answer("Who?")
        with pytest.raises(RemoteError, match="choices"):
            system.answer("Who?")
        system.close()
