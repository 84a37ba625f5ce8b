"""All stages of a recipe on a tiny Qwen2: planned, trained, stopped and gone on with, opened and asked."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from memrecall_kv import Document, MemRecall
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.loading import load_backbone, load_outline
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.cli import main
from memrecall_kv.config import default_directory
from memrecall_kv.errors import ConfigError, InputError
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.train.checkpoint import load_checkpoint
from memrecall_kv.train.data import load_rows
from memrecall_kv.train.plan import plan_stage
from memrecall_kv.train.recipe import Recipe, load_recipe
from memrecall_kv.train.settings import GateTraining, settings_over_preset
from memrecall_kv.train.tasks import TaskSampler
from memrecall_kv.train.whole import train_all
from safetensors.torch import load_file

NAMES = "Ada Ben Cleo Dan Eve Finn Gus Hal".split()
PLACES = "Rome Oslo Bern Lima".split()
SMALL = {"rank": 2, "alpha": 4.0}
LOOP = {"steps": 2, "warmup_steps": 1, "validate_every": 2}
STAGES: list[dict[str, Any]] = [
    {"name": "scorer", "stage": "scorer", "settings": {"loop": LOOP, "width": 4, "budget": 150}},
    {"name": "reader", "stage": "reasoner", "settings": {"loop": LOOP, "reader": SMALL, "budget": 150}},
    {"name": "more", "stage": "reasoner", "start_from": "reader", "settings": {"loop": LOOP, "budget": 150}},
    {"name": "gate", "stage": "gate", "start_from": "more", "settings": {"loop": LOOP, "adapter": SMALL, "mined": 0}},
]
PIPELINE = {"chunking": {"chunk_tokens": 64}, "gate": {"threshold": 0.0}, "reasoner": {"max_answer_tokens": 4}}
DATA = {"questions": [{"path": "questions.jsonl"}], "texts": ["texts.jsonl"], "validation_rows": 2}
TEXT = "Ada lives in Rome. Ben lives in Oslo. Cleo lives in Bern. " * 3


def recipe(model: Path, **changes: Any) -> dict[str, Any]:
    parts = {"compressor": "scorer", "reasoner": ["reader", "more"], "gate": "gate", "pipeline": PIPELINE}
    return {"backbone": str(model), "data": DATA, "stages": STAGES, **parts, **changes}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    rows = []
    for number in range(100):
        people, places = draw.sample(NAMES, 3), draw.sample(PLACES, 3)
        facts = [f"{who} lives in {where}." for who, where in zip(people, places, strict=True)]
        paragraphs = [{"title": "", "text": fact, "supporting": index == 0} for index, fact in enumerate(facts)]
        asked = {"question": f"Where does {people[0]} live?", "answers": [places[0]]}
        rows.append({"id": f"r{number}", **asked, "paragraphs": paragraphs})
    for name, made in (("questions", rows), ("texts", [{"title": "", "text": TEXT * 3}] * 3)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, made = tmp_path_factory.mktemp("model") / "qwen", tiny_backbone("qwen2")
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(model: Path) -> Backbone:
    return load_backbone(model, dtype="float32", attention="eager")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code, *capsys.readouterr()


def test_one_command_makes_a_pipeline_that_opens_and_answers(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(recipe(Path("nowhere"))), encoding="utf-8")  # JSON is YAML
    common = ["all", "--data", data, "--out", tmp_path / "run", "--preset", path, "--model", model]
    common += ["--dtype", "float32", "--set", "scorer.loop.steps=3"]
    code, out, _ = run(capsys, *common)
    assert code == 0
    assert str(tmp_path / "run" / "pipeline") in out
    memory = MemRecall.from_pretrained(tmp_path / "run" / "pipeline", dtype="float32")
    with memory.open_bank(tmp_path / "b.bank") as bank:
        memory.ingest(bank, [Document("d", TEXT)])
        answer = memory.ask(bank, "Where does Ada live?")
    assert answer.trace.looks
    lines = (tmp_path / "run" / "scorer" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    code, _, errors = run(capsys, *common)
    assert code == 2
    assert "holds a run already" in errors
    code, _, errors = run(capsys, *common[:-1], "scorer.loop.steps=4", "--resume")
    assert code == 2
    assert "begun with other settings" in errors


def test_what_each_stage_hands_on_is_what_the_next_begins_with(
    data: Path, model: Path, backbone: Backbone, tmp_path: Path
) -> None:
    still = [{**stage, "settings": {**stage["settings"], "loop": {**LOOP, "learning_rate": 1e-12}}} for stage in STAGES]
    made = train_all(backbone, Recipe(**recipe(model, stages=[STAGES[0], STAGES[1], *still[2:]])), data, tmp_path)
    reader, more = (LoraAdapter.from_directory(tmp_path / name / "reasoner") for name in ("reader", "more"))
    assert reader.rank == 2
    assert max(float(second.abs().max()) for _, second in reader.deltas.values()) > 0
    assert reader.digest == more.digest == LoraAdapter.from_directory(made / "reasoner").digest
    gate = LoraAdapter.from_directory(tmp_path / "gate" / "gate")
    assert gate.single().digest == more.digest


@pytest.mark.parametrize("checkpointed", [True, False])
@pytest.mark.parametrize("stopped_in", ["reader", "gate"])
def test_a_run_that_was_stopped_goes_on_to_the_same_pipeline(
    stopped_in: str, checkpointed: bool, data: Path, model: Path, backbone: Backbone, tmp_path: Path
) -> None:
    loop = {"checkpoint_seconds": 1e-9} if checkpointed else {}
    stages = [{**stage, "settings": {**stage["settings"], "loop": {**LOOP, **loop}}} for stage in STAGES]
    tiny = Recipe(**recipe(model, stages=stages))
    whole = train_all(backbone, tiny, data, tmp_path / "whole")

    class StopError(Exception):
        pass

    begun: list[str] = []

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 2:
            raise StopError

    with pytest.raises(StopError):
        train_all(
            backbone, tiny, data, tmp_path / "parts", began=lambda run, _: stop if run.name == stopped_in else None
        )
    assert not (tmp_path / "parts" / "pipeline").exists()
    shutil.move(tmp_path / "parts", tmp_path / "moved")
    parts = train_all(
        backbone, tiny, data, tmp_path / "moved", resume=True, began=lambda run, _: begun.append(run.name)
    )
    assert begun == [stage["name"] for stage in STAGES][[s["name"] for s in STAGES].index(stopped_in) :]
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        one, other = load_file(whole / file), load_file(parts / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    # a pipeline that is there is left as it is, whatever was done to it since
    (parts / "memrecall_config.json").write_text("{}", encoding="utf-8")
    train_all(backbone, tiny, data, tmp_path / "moved", resume=True)
    assert (parts / "memrecall_config.json").read_text(encoding="utf-8") == "{}"


def test_a_gate_of_a_window_is_read_as_it_was_trained(data: Path, model: Path) -> None:
    window = {
        **STAGES[3],
        "settings": {**STAGES[3]["settings"], "layers": [0, 1], "seeing_tokens": 5, "noted_seeing_tokens": 7},
    }
    config = Recipe(**recipe(model, stages=[*STAGES[:3], window])).pipeline_config()
    assert config.gate.layers == (0, 1)
    assert (config.gate.seeing_tokens, config.gate.noted_seeing_tokens) == (5, 7)
    assert config.chunking.chunk_tokens == 64
    assert config.bank.layers == "gate"
    whole = Recipe(**recipe(model)).pipeline_config()
    assert (whole.gate.layers, whole.bank.layers) == (None, "all")
    kept = Recipe(**recipe(model, stages=[*STAGES[:3], window], pipeline={"bank": {"layers": "all"}}))
    assert kept.pipeline_config().bank.layers == "all"


def test_a_pipeline_reads_as_its_reader_was_trained(model: Path) -> None:
    """A stage's reader reads texts apart, however the packaged one does, whose settings are the recipe's too."""
    packaged = json.loads((default_directory() / "memrecall_config.json").read_text(encoding="utf-8"))["settings"]
    assert packaged["reasoner"]["reading"] == "together"
    config = Recipe(**recipe(model)).pipeline_config()
    assert (config.reasoner.reading, config.reasoner.refusal_bias) == ("apart", 0.0)
    assert config.scan.max_looks is config.scan.fill_tokens is None
    together = Recipe(**recipe(model, pipeline={"reasoner": {"reading": "together"}}))
    assert together.pipeline_config().reasoner.reading == "together"


def test_a_window_is_taught_by_the_gate_of_an_earlier_stage(
    data: Path, model: Path, backbone: Backbone, tmp_path: Path
) -> None:
    taught = {"name": "window", "stage": "gate", "start_from": "gate", "teacher": "gate", "scorer": "scorer"}
    taught |= {"settings": {**STAGES[3]["settings"], "layers": [0, 1], "fitted_lists": 2}}
    made = train_all(backbone, Recipe(**recipe(model, stages=[*STAGES, taught], gate="window")), data, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "window" / "metrics.jsonl").read_text().splitlines()]
    assert any("taught" in record for record in records)
    config = MemRecall.from_pretrained(made).config
    assert config.gate.layers == config.block_layers == (0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "reader"}, "gate is to come from reader"),
        ({"compressor": "none"}, "compressor is to come from none"),
        ({"reasoner": []}, "reasoner"),
        ({"stages": [*STAGES, STAGES[0]]}, "two stages are called scorer"),
        ({"stages": [STAGES[0], STAGES[2], STAGES[1], STAGES[3]]}, "more starts from reader"),
        ({"stages": [*STAGES[:3], {**STAGES[3], "start_from": "scorer"}]}, "gate starts from scorer"),
        ({"stages": [*STAGES[:3], {**STAGES[3], "teacher": "gate"}]}, "gate learns with gate, which is no earlier"),
        ({"stages": [*STAGES[:3], {**STAGES[3], "scorer": "reader"}]}, "gate learns with reader, which is no earlier"),
        ({"stages": [STAGES[0], {**STAGES[1], "scorer": "scorer"}, *STAGES[2:]]}, "reader learns with scorer"),
        (
            {"stages": [*STAGES[:3], {**STAGES[3], "settings": {"start_from": "x"}}]},
            "sets start_from among its settings",
        ),
        ({"stages": [{**STAGES[0], "name": "../scorer"}, *STAGES[1:]]}, "name"),
        ({"pipelines": {}}, "pipelines"),
    ],
)
def test_a_recipe_that_cannot_be_right_is_refused(changes: dict[str, Any], message: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**recipe(model, **changes))


def test_wrong_settings_of_a_late_stage_are_found_before_the_first_trains(
    data: Path, model: Path, backbone: Backbone, tmp_path: Path
) -> None:
    wrong = [*STAGES[:3], {**STAGES[3], "settings": {"lists": 0}}]
    with pytest.raises(ConfigError, match="lists"):
        train_all(backbone, Recipe(**recipe(model, stages=wrong)), data, tmp_path)
    with pytest.raises(ConfigError, match="top_k"):
        train_all(backbone, Recipe(**recipe(model, pipeline={"scan": {"top_k": 0}})), data, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", [None, Path("smollm2-135m"), Path("qwen2.5-0.5b")])
def test_packaged_recipes_are_valid(name: Path | None) -> None:
    found = load_recipe(name, ["gate.loop.steps=7"])
    settings = {run.name: found.settings_of(run, Path("out")) for run in found.stages}
    assert settings["gate"].loop.steps == 7
    assert isinstance(settings["gate-again"], GateTraining)
    assert settings["gate-again"].start_from == str(Path("out/gate/gate"))
    assert found.pipeline_config().gate.kind == "classifier"


def test_unknown_recipes_and_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="qwen"):
        load_recipe(Path("qwen"))
    with pytest.raises(InputError, match="smollm2-135m"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="called 'loop'"):
        load_recipe(None, ["loop.steps=2"])


def test_a_plan_needs_no_weights_and_counts_what_a_run_holds(
    data: Path, model: Path, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(recipe(bare)), encoding="utf-8")
    asked = ["all", "--plan", "--data", data, "--preset", path, "--dtype", "float32"]
    code, out, _ = run(capsys, *asked, "--json", "--flops", "1e9")
    assert code == 0
    plan = json.loads(out)
    assert plan["weights"] == sum(p.numel() for p in backbone.model.parameters())
    assert plan["weight_bytes"] == 4 * plan["weights"]
    train_all(backbone, Recipe(**recipe(bare)), data, tmp_path / "run")
    for stage in plan["stages"]:
        tensors, _ = load_checkpoint(tmp_path / "run" / stage["stage"] / "checkpoint")
        if stage["stage"] != "more":  # whose rank is that of what it starts from
            assert stage["checkpoint_bytes"] == sum(tensor.nbytes for tensor in tensors.values())
        assert stage["hours"] > 0
    code, out, _ = run(capsys, *asked)
    assert code == 0
    assert "measured on one layer here" in out
    assert all(stage["name"] in out for stage in STAGES)


def test_a_plan_counts_what_training_draws(data: Path, model: Path, backbone: Backbone) -> None:
    outline = load_outline(model)
    text = "Ada's <|im_start|> and </s> caf\u00e9"
    assert outline.encode(text) == backbone.encode(text)
    assert outline.end_id == backbone.end_id
    linears = [m for m in backbone.kv.base.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert outline.layer_parameters == sum(m.weight.numel() for m in linears)
    for below in (None, 1):
        adapter = LoraAdapter.create(backbone.model, ("q_proj", "down_proj"), rank=3, alpha=6)
        deltas = (adapter.below(below) if below else adapter).deltas.values()
        counted = sum(tensor.numel() for pair in deltas for tensor in pair)
        assert outline.adapter_parameters(("q_proj", "down_proj"), 3, below=below) == counted
    settings = settings_over_preset("reasoner", {"data": DATA}, {"budget": 150, "loop": {"steps": 1}})
    plan = plan_stage(outline, "reader", settings, data)
    rows = load_rows(settings.data, data)
    task = TaskSampler(backbone, rows.train, [], budget=150, spans=0, seed=0).draw(0)
    assert plan.read_tokens == sum(map(len, task.chunks))
    assert plan.trained_tokens == sum(len(query.prompt) + len(query.target) for query in task.queries)
    assert plan.operations == outline.layer_parameters * (2 * plan.read_tokens + 4 * plan.trained_tokens)
    scorer = plan_stage(outline, "scorer", settings_over_preset("scorer", {"data": DATA}), data)
    assert scorer.read_tokens >= 2 * 1200 * scorer.steps
    assert scorer.trained_tokens == 0


def test_a_stage_is_planned_alone(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stage.yaml"
    path.write_text(json.dumps({"data": DATA, **STAGES[1]["settings"]}), encoding="utf-8")
    asked = ["reasoner", "--plan", "--data", data, "--preset", path, "--model", model, "--flops", "1e9", "--json"]
    code, out, _ = run(capsys, *asked)
    assert code == 0
    assert [stage["stage"] for stage in json.loads(out)["stages"]] == ["reasoner"]
    code, _, errors = run(capsys, "reasoner", "--data", data)
    assert code == 2
    assert "Name one with --out" in errors
    code, _, errors = run(capsys, "everything", "--data", data)
    assert code == 2
    assert "is not one of scorer" in errors
