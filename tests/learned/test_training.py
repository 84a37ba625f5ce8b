"""Training on a tiny backbone: exact resume, failures that lose nothing, and parts that learn what they are for."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.kv import whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.cli import main
from memrecall_kv.cli.training import StageName
from memrecall_kv.compress.frozen_raw import FrozenRawLayout
from memrecall_kv.compress.importance import reconstruction
from memrecall_kv.compress.learned_importance import ImportanceScorer
from memrecall_kv.compress.operators import OperatorCompressor, operate
from memrecall_kv.config import CompressorConfig
from memrecall_kv.errors import ConfigError, InputError, NonFiniteLossError
from memrecall_kv.recall.gate import HEAD_FILE
from memrecall_kv.testing import tiny_backbone
from memrecall_kv.train import stages
from memrecall_kv.train.checkpoint import load_checkpoint
from memrecall_kv.train.data import Example, Paragraph, load_rows, read_examples
from memrecall_kv.train.gating import distance, fitted_head
from memrecall_kv.train.judgements import GateSampler
from memrecall_kv.train.loop import TrainingLoop, learning_rate
from memrecall_kv.train.rollouts import Rollouts, train_rl
from memrecall_kv.train.settings import DataConfig, GateTraining, LoopConfig, QuestionFile, Stage, load_settings
from memrecall_kv.types import Chunk
from safetensors.torch import load_file

NAMES = "Ada Ben Cleo Dan Eve Finn Gus Hal Ida Jon Kim Leo Mia Ned Oda Pam".split()
PLACES = "Rome Oslo Bern Lima Kiev Cork Bonn Pisa".split()


def rows(count: int, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    made = []
    for number in range(count):
        people, places = draw.sample(NAMES, 3), draw.sample(PLACES, 3)
        facts = [f"{who} lives in {where}." for who, where in zip(people, places, strict=True)]
        paragraphs = [{"title": "", "text": fact, "supporting": index == 0} for index, fact in enumerate(facts)]
        draw.shuffle(paragraphs)
        question = f"Where does {people[0]} live?"
        made.append({"id": f"r{number}", "question": question, "answers": [places[0]], "paragraphs": paragraphs})
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, made in (("questions", rows(200)), ("texts", [{"title": "", "text": "a sentence of text. " * 30}] * 3)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in made), encoding="utf-8")
    return folder


def preset(folder: Path, **settings: object) -> Path:
    questions = {"questions": [{"path": "questions.jsonl"}], "texts": ["texts.jsonl"], "validation_rows": 4}
    path = folder / "preset.yaml"
    path.write_text(json.dumps({"data": questions, **settings}), encoding="utf-8")  # JSON is YAML
    return path


def loop(**changes: object) -> dict[str, object]:
    return {"steps": 6, "learning_rate": 5e-3, "warmup_steps": 2, "validate_every": 3, **changes}


SMALL = {"rank": 2, "alpha": 4.0}
STAGES = {
    "scorer": {"width": 4, "budget": 150},
    "compressor": {"ratios": [2, 4], "compressor": SMALL, "reader": SMALL, "budget": 150},
    "reasoner": {"reader": SMALL, "budget": 150},
    # the same names live elsewhere in other rows: mined, they would be right answers called wrong
    "gate": {"adapter": SMALL, "mined": 0},
}


def run(
    stage: str, backbone: Backbone, data: Path, out: Path, *, resume: bool = False, **settings: object
) -> list[dict]:
    records: list[dict] = []
    read = load_settings(stage, preset(data, **{**STAGES[stage], **settings}))
    stages.STAGES[stage](backbone, read, data, out, resume=resume, report=records.append)
    return records


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(stage: str, data: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    whole = run(stage, backbone, data, tmp_path / "whole", loop=loop())
    stopped: list[dict] = []

    class StopError(Exception):
        pass

    def stop(record: dict) -> None:
        stopped.append(record)
        if record["step"] == 4:
            raise StopError

    settings = load_settings(stage, preset(data, **STAGES[stage], loop=loop(checkpoint_seconds=1e-9)))
    start = stages.STAGES[stage]
    with pytest.raises(StopError):
        start(backbone, settings, data, tmp_path / "parts", report=stop)
    # the step that was reported was not saved yet: it is done again
    resumed = run(stage, backbone, data, tmp_path / "parts", resume=True, loop=loop())
    assert resumed[0]["step"] == 4
    # validated before the first step
    assert whole[0].keys() > {"step"}
    assert not {"loss", "seconds"} & whole[0].keys()
    for record, other in zip(whole[4:], resumed, strict=True):
        del record["seconds"], other["seconds"]
        assert record == other
    one, _ = load_checkpoint(tmp_path / "whole" / "checkpoint")
    other, _ = load_checkpoint(tmp_path / "parts" / "checkpoint")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loss_that_is_no_number_stops_and_names_the_checkpoint(tmp_path: Path) -> None:
    weight = torch.ones(2)
    training = TrainingLoop({"weight": weight}, LoopConfig(steps=5, checkpoint_seconds=1e-9), tmp_path)

    def broken(step: int) -> list:
        return [((weight * (float("nan") if step == 3 else 1.0)).sum(), {})]

    with pytest.raises(NonFiniteLossError, match=r"step 3 is nan.*checkpoint"):
        training.train(broken)
    tensors, record = load_checkpoint(tmp_path / "checkpoint")
    assert record["step"] == 3
    assert bool(tensors["weight"].isfinite().all())


def test_gradients_of_the_parts_of_a_step_add_up(tmp_path: Path) -> None:
    ends = []
    for parts in (1, 4):
        weight = torch.arange(4.0)
        training = TrainingLoop({"w": weight}, LoopConfig(steps=3), tmp_path / str(parts))
        training.train(lambda _, w=weight, n=parts: [((w**2).sum() / n, {"part": 1 / n}) for _ in range(n)])
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)
    records = [json.loads(line) for line in (tmp_path / "4" / "metrics.jsonl").read_text().splitlines()]
    assert [record["part"] for record in records] == pytest.approx([1.0] * 3)


def test_the_schedule_warms_up_and_falls_to_a_tenth() -> None:
    config = LoopConfig(steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_scorer_learns_what_reconstruction_says_and_selects_by_it(data: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    records = run("scorer", backbone, data, tmp_path, loop=loop(steps=40, learning_rate=1e-2), width=16, budget=300)
    assert sum(record["kept_alike_x4"] for record in records[-5:]) / 5 > 0.45  # a quarter by chance
    scorer = ImportanceScorer.from_directory(tmp_path / "compressor")
    settings = {"importance": "learned", "budget": "adaptive"}
    with pytest.raises(InputError, match="scorer"):
        OperatorCompressor(backbone, CompressorConfig(**settings))
    with pytest.raises(InputError, match="scorer"):
        OperatorCompressor(backbone, CompressorConfig(), scorer)
    compressor = OperatorCompressor(backbone, CompressorConfig(**settings), scorer)
    assert compressor.digest.startswith("select:learned:adaptive:0.1:")
    text = "Ada lives in Rome. Ben lives in Oslo."
    (block,) = compressor.compress([Chunk("d", 0, 0, len(text), text, len(text))])
    with torch.inference_mode():
        rows = [backbone.encode(text)]
        prefill = backbone.kv.prefill(rows)
        wanted = reconstruction(backbone, prefill, rows)
        best = operate(
            backbone, prefill, rows, CompressorConfig(importance="reconstruction", budget="adaptive"), wanted
        )[0]
    assert float((block.counts - best.counts).abs().float().mean()) < float(best.counts.float().mean())
    other = ImportanceScorer({name: tensor + 0.1 for name, tensor in scorer.tensors.items()})
    assert OperatorCompressor(backbone, CompressorConfig(**settings), other).digest != compressor.digest


def test_the_reader_learns_and_uses_its_blocks(data: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone(hidden_size=64, intermediate_size=128)
    settings = {"reader": {"rank": 8, "alpha": 16.0}, "budget": 400}
    records = run("reasoner", backbone, data, tmp_path, loop=loop(steps=40, learning_rate=1e-2), **settings)
    first, last = (sum(record["text"] for record in part) / 5 for part in (records[1:6], records[-5:]))
    assert last < 0.7 * first
    assert LoraAdapter.from_directory(tmp_path / "reasoner").rank == 8


@pytest.mark.parametrize("layers", [None, (0, 1)])
def test_the_gate_learns_to_tell_which_block_matters(
    layers: tuple[int, int] | None, data: Path, tmp_path: Path
) -> None:
    backbone = tiny_backbone(hidden_size=64, intermediate_size=128)
    small = {"rank": 8, "alpha": 16.0}
    records = run("gate", backbone, data, tmp_path, loop=loop(steps=60), adapter=small, lists=4, layers=layers)
    adapter = LoraAdapter.from_directory(tmp_path / "gate")
    assert any("layers.1." in name for name in adapter.deltas) == (layers is None)
    assert sum(record["loss"] for record in records[-10:]) < sum(record["loss"] for record in records[1:11])
    assert (tmp_path / "gate" / "gate_head.safetensors").is_file()


@pytest.mark.parametrize("note_tokens", [0, 3])
def test_reinforcement_raises_the_reward_and_reaches_the_compressor_through_its_blocks(note_tokens: int) -> None:
    backbone = tiny_backbone()
    backbone.model.requires_grad_(requires_grad=False)
    settings = load_settings("rl", None, [f"note_tokens={note_tokens}", "group_size=16", "answer_tokens=2"])
    rollouts = Rollouts(backbone, settings)
    targets = ("q_proj", "v_proj", "down_proj")
    reader, compressor = (LoraAdapter.create(backbone.model, targets, rank=4, alpha=8) for _ in range(2))
    start = reader.single()
    leaves = [t.requires_grad_() for adapter in (reader, compressor) for pair in adapter.deltas.values() for t in pair]
    optimizer = torch.optim.AdamW(leaves, lr=1e-2, weight_decay=0.0)
    texts = [list(range(40, 60)), list(range(70, 84))]
    earned, reached = [], []
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        blocks = FrozenRawLayout(backbone, compressor, torch.zeros(32)).compress(texts, 2)
        fixed = [replace(block, keys=block.keys.detach(), values=block.values.detach()) for block in blocks]
        group = rollouts.draw(reader, fixed, "what?", generator)
        # a reward that can be had by chance: an answer whose first byte is even
        rewards = [float(trajectory.turns[-1].reply[0] % 2 == 0) for trajectory in group]
        loss, metrics = rollouts.loss(reader, start, blocks, fixed, group, rewards)
        optimizer.zero_grad()
        loss.backward()
        gradients = [second.grad for _, second in compressor.deltas.values() if second.grad is not None]
        reached.append(max(float(gradient.abs().max()) for gradient in gradients))
        optimizer.step()
        earned.append(metrics["reward"])
        assert metrics["clip_share"] == 0.0  # rollouts are trained on once, by the policy that drew them
    assert sum(earned[:8]) / 8 < 0.75
    assert sum(earned[-8:]) / 8 > 0.85
    assert max(reached) > 0.0
    assert len(group[0].turns) == (3 if note_tokens else 1)


def test_drawn_tokens_have_the_probability_they_were_drawn_with() -> None:
    backbone = tiny_backbone()
    rollouts = Rollouts(backbone, load_settings("rl", None, ["group_size=3", "answer_tokens=5", "temperature=0.7"]))
    reader = LoraAdapter.create(backbone.model, ("q_proj",), rank=2, alpha=4)
    rows = [list(range(40, 60))]
    with torch.no_grad():
        blocks = whole_blocks(backbone.kv.prefill(rows), rows)
        group = rollouts.draw(reader, blocks, "what?", torch.Generator().manual_seed(0))
        turns = [trajectory.turns[-1] for trajectory in group]
        found, mask, _ = rollouts.log_probabilities(reader, blocks, turns)
        for row, turn in enumerate(turns):
            ids = torch.tensor([[*turn.prompt, *turn.reply]])
            hidden = backbone.kv.forward(backbone.kv.place([blocks]), ids=ids)[0, len(turn.prompt) - 1 : -1]
            expected = torch.log_softmax(backbone.kv.logits(hidden) / 0.7, dim=-1).gather(
                -1, torch.tensor(turn.reply)[:, None]
            )
            torch.testing.assert_close(found[row][mask[row]], expected[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [0, 2])
def test_the_stage_of_reinforcement_runs_from_what_was_trained(ratio: int, data: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    run("compressor", backbone, data, tmp_path / "start", loop=loop(steps=2))
    settings = load_settings(
        "rl",
        preset(
            data, start_from=str(tmp_path / "start"), ratio=ratio, group_size=4, answer_tokens=4, loop=loop(steps=3)
        ),
        ["format_weight=0.5", "grounding_weight=0.1"],
    )
    records: list[dict] = []
    train_rl(backbone, settings, data, tmp_path / "rl", report=records.append)
    assert {"reward", "reward_spread", "divergence", "clip_share", "entropy", "held_out_reward"} <= records[-1].keys()
    assert (tmp_path / "rl" / "compressor").exists() == bool(ratio)
    assert LoraAdapter.from_directory(tmp_path / "rl" / "reasoner").rank == 2


def test_rows_are_held_out_by_group_and_used_once(data: Path) -> None:
    settings = load_settings("reasoner", preset(data), ['data.questions=[{"path": "questions.jsonl"}]'])
    found = load_rows(settings.data, data)
    train, held_out = ({example.group for example in part} for part in (found.train, found.held_out))
    assert train
    assert held_out
    assert not train & held_out
    assert len(read_examples(data / "questions.jsonl")) == 200


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["loop.step=3"], ConfigError, "step"),
        (["loop.steps=0"], ConfigError, "steps"),
        (["nothing.at.all=1"], ConfigError, "nothing"),
        (["loop.steps.more=1"], ConfigError, "single value"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(changes: list[str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load_settings("gate", None, changes)


def test_the_script_trains_and_refuses_to_overwrite(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    backbone = tiny_backbone()
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.tokenizer.save_pretrained(tmp_path / "model")
    path = preset(data, **STAGES["gate"], loop=loop(steps=2))
    common = ["train", "gate", "--data", str(data), "--out", str(tmp_path / "run"), "--preset", str(path)]
    common += ["--model", str(tmp_path / "model"), "--dtype", "float32", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(common)
    assert ended.value.code == 0
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [0, 1, 2]
    with pytest.raises(SystemExit) as ended:
        main(common)
    assert ended.value.code == 2
    assert "holds a run already" in capsys.readouterr().err


def test_script_settings_and_table_know_the_same_stages() -> None:
    assert {stage.value for stage in StageName} == set(get_args(Stage)) == set(stages.STAGES)


def test_every_preset_is_valid() -> None:
    for stage in ("scorer", "compressor", "reasoner", "gate", "rl"):
        assert load_settings(stage).loop.steps > 0


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n{"question"', encoding="utf-8")
    with pytest.raises(InputError, match="row 1 lacks"):
        read_examples(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"question', encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        read_examples(tmp_path / "rows.jsonl")


def test_negatives_of_other_questions_share_words_and_hold_no_answer(data: Path) -> None:
    examples = read_examples(data / "questions.jsonl")
    sampler = GateSampler(lambda text: list(text.encode()), examples, lists=1, seed=0, mined=2)
    plain = GateSampler(lambda text: list(text.encode()), examples, lists=1, seed=0)
    assert len(plain.draw(0).chunks) == 3
    for step in range(20):
        task = sampler.draw(step)
        assert task == sampler.draw(step)
        texts = [bytes(chunk).decode() for chunk in task.chunks]
        (judgement,) = task.judgements
        asked = judgement.question.split()[2]
        (gold,) = [text for text, relevant in zip(texts, judgement.relevant, strict=True) if relevant]
        mined = texts[3:]
        assert mined
        assert all(asked in text for text in mined), (judgement.question, texts)
        assert not any(gold.split()[-1] in text for text in mined)


def test_a_gate_of_a_window_learns_what_a_gate_of_all_layers_judges(data: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone(hidden_size=64, intermediate_size=128)
    small = {"rank": 8, "alpha": 16.0}
    run("gate", backbone, data, tmp_path / "first", loop=loop(steps=60), adapter=small, lists=4)
    run("scorer", backbone, data, tmp_path / "score", loop=loop(steps=2))
    learned = {"teacher": str(tmp_path / "first" / "gate"), "scorer": str(tmp_path / "score" / "compressor")}
    learned |= {"ratio": 2, "noted_sentences": 1, "layers": (0, 2)}
    taught = run("gate", backbone, data, tmp_path / "second", loop=loop(steps=60), adapter=small, lists=4, **learned)
    apart = [record["taught"] for record in taught if "taught" in record]
    assert sum(apart[-10:]) < 0.8 * sum(apart[:10])


def test_a_windows_head_begins_near_its_teacher(data: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone(hidden_size=64, intermediate_size=128)
    small = {"rank": 8, "alpha": 16.0}
    run("gate", backbone, data, tmp_path / "first", loop=loop(steps=60), adapter=small, lists=4)
    first = str(tmp_path / "first" / "gate")
    learned = {"teacher": first, "start_from": first, "layers": (0, 1), "lists": 8, "adapter": small}
    apart = {}
    for fitted in (0, 20):
        learned |= {"fitted_lists": fitted, "loop": loop(steps=1)}
        records = run("gate", backbone, data, tmp_path / f"{fitted}", **learned)
        (apart[fitted],) = (record["taught"] for record in records if "taught" in record)
    assert apart[20] < 0.7 * apart[0]


def test_a_fitted_head_is_that_which_the_lessons_come_from() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, generator=generator) / 4, torch.tensor(0.5)
    states = torch.randn(3, 4000, 4, generator=generator)
    found, offset = fitted_head((one, one @ weight + bias) for one in states)
    torch.testing.assert_close(found, weight, atol=0.01, rtol=0.0)
    torch.testing.assert_close(offset, bias, atol=0.01, rtol=0.0)


def test_a_head_is_fitted_to_a_teacher_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="teacher"):
        GateTraining(data=DataConfig(questions=(QuestionFile(path="a"),)), fitted_lists=3)


def test_the_distance_to_a_teacher_is_nothing_where_both_agree_and_grows_with_the_order() -> None:
    wanted = torch.tensor([2.0, -1.0, -3.0])
    assert float(distance(wanted, wanted)) == pytest.approx(0.0, abs=1e-6)
    near, far = distance(wanted + 0.3, wanted), distance(wanted.flip(0), wanted)
    assert 0 < float(near) < float(far)
    scores = torch.zeros(3, requires_grad=True)
    distance(scores, wanted).backward()
    assert scores.grad is not None
    assert scores.grad[0] < 0 < scores.grad[2]


def test_half_of_the_notes_are_what_a_pipeline_would_note() -> None:
    paragraphs = tuple(
        Paragraph(f"{name} was seen. {name} was met by Ann in {place}. It rained in {place}.", supporting=True,
                  sentences=(f"{name} was seen.",))
        for name, place in (("Bob", "Rome"), ("Eve", "Oslo"))
    )  # fmt: skip
    example = Example("q", "q", "Where was Bob met by Ann, and where was Eve met?", ("Rome",), paragraphs, "chains")
    sampler = GateSampler(lambda text: [0], [example], lists=1, seed=0, noted_sentences=1)
    notes = {judgement.memory for step in range(60) for judgement in sampler.draw(step).judgements if judgement.memory}
    noted = {f"{name} was met by Ann in {place}." for name, place in (("Bob", "Rome"), ("Eve", "Oslo"))}
    assert notes == noted | {"Bob was seen.", "Eve was seen."}


def test_a_gate_goes_on_from_a_gate(data: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    run("gate", backbone, data, tmp_path / "first", loop=loop())
    start = str(tmp_path / "first" / "gate")
    run("gate", backbone, data, tmp_path / "second", loop=loop(steps=1, learning_rate=1e-9), start_from=start)
    before, after = (load_file(tmp_path / run / "gate" / HEAD_FILE) for run in ("first", "second"))
    assert before["weight"].abs().max() > 0
    torch.testing.assert_close(before["weight"], after["weight"], atol=1e-6, rtol=0)
