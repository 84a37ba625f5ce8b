"""Train the reader on texts in full, its deltas on throughout, many questions at a time.

The packaged reader reads chunks that the untouched backbone has read, each by itself. Here chunks stand in one prompt
and see each other. They are read once for all that is asked of them: a question sees the texts and itself, so what it
learns is what it would learn alone. Every eighth step rehearses the packaged way, so that blocks can still be read.

python scripts/build_questions.py --data DATA --out built.jsonl
python scripts/build_everyday.py --out everyday.jsonl
python scripts/train_text_reader.py --data DATA --built built.jsonl everyday.jsonl --out runs/text-reader

A run goes on from its folder's checkpoint. Every hundred steps `snapshot-N/` holds the deltas in bfloat16, and so does
`reader/` at the end, or when `--seconds` are over. From such a folder alone another machine goes on with `--start
FOLDER --from-step N`, without the optimizer's moments. `scripts/device_train.sh` does both on a GPU.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.loading import load_backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.frozen_raw import FrozenRawLayout
from memrecall_kv.config import default_directory
from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.rows import read_lines
from memrecall_kv.recall import prompts
from memrecall_kv.train.data import Example, Paragraph, is_held_out, load_rows
from memrecall_kv.train.loop import TrainingLoop
from memrecall_kv.train.losses import weighted_cross_entropy
from memrecall_kv.train.reading import ReadingLoss
from memrecall_kv.train.settings import DataConfig, LoopConfig, QuestionFile, load_settings
from memrecall_kv.train.tasks import TaskSampler, validation_task
from torch import Tensor

CHUNK = 256
"""Tokens of a text, as in a bank."""
SHEET = 600
"""Tokens of texts on a sheet, about."""
SHARES = {
    "squad_v1.1": 0.28,
    "everyday": 0.16,
    "built": 0.14,
    "hotpotqa": 0.18,
    "fairytaleqa": 0.08,
    "2wikimultihopqa": 0.06,
    "musique": 0.03,
    "strategyqa": 0.05,
    "babi": 0.02,
}
"""Of the sheets, by data set that they begin with."""
CHAINS = ("hotpotqa", "2wikimultihopqa", "musique")
MIXED = (*CHAINS, "built", "strategyqa")
"""Data sets whose questions name what they are about: they can share a sheet."""
WHOLE = ("squad_v1.1", "fairytaleqa", "everyday")
"""Data sets whose texts follow each other as in a document: half of their sheets hold chunks as a bank does."""
ASKED = 6
"""Questions of one text, at most."""
MOST = 8
"""Paragraphs that chunks are made of, at most."""
REFUSED = 0.12
"""Share of questions whose answer stands elsewhere, in articles and chains."""


@dataclass(frozen=True)
class Item:
    """A question, as it stands behind texts, and what is to follow it, token ids."""

    prompt: list[int]
    target: list[int]


@dataclass(frozen=True)
class Sheet:
    """Texts, and what is asked of them: token ids, and items that see the texts and themselves."""

    texts: list[int]
    items: list[Item]

    def __len__(self) -> int:
        return len(self.texts) + sum(len(item.prompt) + len(item.target) - 1 for item in self.items)


class TimeIsUpError(Exception):
    """A step would begin after the time that was given."""


class Sampler:
    """Draws the sheets of a step, as a function of seed and step.

    Args:
        backbone: Its tokenizer.
        examples: Questions of every data set.
        seed: Of what is drawn.
        tokens: Of a step, about.
    """

    def __init__(self, backbone: Backbone, examples: Sequence[Example], seed: int, tokens: int) -> None:
        self._backbone, self._seed, self._tokens = backbone, seed, tokens
        self._examples: dict[str, list[Example]] = defaultdict(list)
        by_text: dict[tuple[str, str], dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            self._examples[example.dataset].append(example)
            if example.dataset not in MIXED:
                by_text[example.dataset, example.group][example.paragraphs[0].text].append(example)
        self._by_text = {key: dict(texts) for key, texts in by_text.items()}
        if unknown := self._examples.keys() - SHARES.keys():
            raise InputError(
                f"Rows of {', '.join(sorted(unknown))} have no share of the sheets.", "Name their data set in SHARES."
            )
        self._names = [name for name in SHARES if self._examples.get(name)]

    def draw(self, step: int) -> list[Sheet]:
        """Return the sheets of a step."""
        draw = random.Random(f"{self._seed}:sheet:{step}")
        sheets: list[Sheet] = []
        while sum(map(len, sheets)) < self._tokens:
            name = draw.choices(self._names, [SHARES[name] for name in self._names])[0]
            as_chunks = name in WHOLE and draw.random() < 0.5
            sheets.append((self._mixed if name in MIXED else self._chunks if as_chunks else self._article)(name, draw))
        return sheets

    def item(self, question: str, answer: str, notes: str = "") -> Item:
        """Return a question as it is asked."""
        prompt = self._backbone.encode(prompts.trained_answer(question, notes))
        return Item(prompt, [*self._backbone.encode(" " + answer)[:64], self._backbone.end_id])

    def sheet(self, texts: Sequence[str], items: Sequence[Item]) -> Sheet:
        """Return texts in one prompt, and what is asked of them."""
        return Sheet([self._backbone.sink_id, *self._backbone.encode(prompts.together(texts))], list(items))

    def cut(self, text: str, answer: str, draw: random.Random) -> str:
        """Return a chunk's worth of a text, with the answer in it if it stands there."""
        ids, spans = self._backbone.encode(text), self._backbone.token_spans(text)
        if len(ids) <= CHUNK:
            return text
        place = text.find(answer)
        first = next((number for number, (_, end) in enumerate(spans) if end > place), 0) if place >= 0 else 0
        start = max(0, min(len(ids) - CHUNK, first - draw.randrange(16, CHUNK - 32)))
        return self._backbone.decode(ids[start : start + CHUNK]).strip()

    def _article(self, name: str, draw: random.Random) -> Sheet:
        """Paragraphs of one article with their questions, and questions of others of its paragraphs."""
        example = draw.choice(self._examples[name])
        whole = self._by_text[name, example.group]
        others = [text for text in whole if text != example.paragraphs[0].text]
        count = 0 if name == "babi" else min(len(others), draw.choice((0, 1, 1, 2)))
        chosen = [example.paragraphs[0].text, *draw.sample(others, count)]
        texts, asked = [], []
        for text in chosen:
            of_it = draw.sample(whole[text], min(ASKED, len(whole[text])))
            read = self.cut(text, of_it[0].answers[0], draw)
            texts.append(read)
            asked += [each for each in of_it if read == text or each.answers[0] in read]
        items = [self.item(each.question, each.answers[0]) for each in asked]
        items += self._refused(name, [each for text in others for each in whole[text]], texts, len(items), draw)
        draw.shuffle(texts)
        return self.sheet(texts, items)

    def _chunks(self, name: str, draw: random.Random) -> Sheet:
        """Chunks as a bank holds them, paragraphs one behind the other, and often of another article too; any order."""
        read, asked, away = self._whole(name, draw)
        other = [each for each in WHOLE if each in self._names and each != "everyday"]
        if other and draw.random() < 0.6:  # two made-up texts would say different things of "it"
            more, others, _ = self._whole(draw.choice(other), draw)
            read, asked = read + more, asked + others
        if not asked:
            return self._article(name, draw)  # one paragraph that is longer than all of the chunks
        items = [self.item(each.question, each.answers[0]) for each in asked]
        items += self._refused(name, away, read, len(items), draw)
        draw.shuffle(read)
        return self.sheet(read, items)

    def _whole(self, name: str, draw: random.Random) -> tuple[list[str], list[Example], list[Example]]:
        """Return chunks of an article, what is asked of them, and what could be asked of the rest of it."""
        example = draw.choice(self._examples[name])
        whole = self._by_text[name, example.group]
        behind = list(whole)[list(whole).index(example.paragraphs[0].text) :]
        title = f"{example.group}: "
        plain = [behind[0], *(text.removeprefix(title) for text in behind[1:MOST])]
        ids = self._backbone.encode("\n\n".join(plain))[: CHUNK * draw.choice((1, 1, 2))]
        read = [self._backbone.decode(ids[at : at + CHUNK]).strip() for at in range(0, len(ids), CHUNK)]
        held, kept = self._backbone.decode(ids), 0
        asked: list[Example] = []
        for text, shown in zip(behind, plain, strict=False):
            if shown not in held:
                break
            kept += 1
            of_it = draw.sample(whole[text], min(ASKED, len(whole[text])))
            asked += [each for each in of_it if any(each.answers[0] in chunk for chunk in read)]
        return read, asked, [each for text in behind[kept + 1 :] for each in whole[text]]

    def _refused(
        self, name: str, away: Sequence[Example], texts: Sequence[str], asked: int, draw: random.Random
    ) -> list[Item]:
        """Return a question whose answer is elsewhere, now and then."""
        if name not in ("squad_v1.1", "everyday") or not away or draw.random() >= REFUSED * asked:
            return []
        chosen = draw.choice(away)
        if chosen.answers[0].lower() in "\n".join(texts).lower():
            return []
        return [self.item(chosen.question, prompts.NOT_FOUND)]

    def _mixed(self, name: str, draw: random.Random) -> Sheet:
        """Questions that name what they are about, each other's texts beside their own."""
        texts, items, size = [], [], 0
        while size < SHEET:
            example = draw.choice(self._examples[name])
            own, item = self._asked(example, draw)
            read = [self.cut(text, example.answers[0], draw) for text in own]
            size += sum(len(self._backbone.encode(text)) for text in read)
            texts += read
            items.append(item)
            name = draw.choices(MIXED, [SHARES[each] * (each in self._names) for each in MIXED])[0]
        draw.shuffle(texts)
        return self.sheet(texts, items)

    def _asked(self, example: Example, draw: random.Random) -> tuple[list[str], Item]:
        """Return the texts that stand there for a question, and how it is asked."""
        answer, gold = example.answers[0], [p for p in example.paragraphs if p.supporting]
        texts, notes = [p.text for p in gold], ""
        judged = answer.lower() in ("yes", "no")  # stands in no text, and follows from all of them
        rest = [p.text for p in example.paragraphs if not p.supporting and (judged or answer not in p.text)]
        extra = draw.sample(rest, min(len(rest), draw.choice((0, 0, 0, 1, 1, 2))))
        known = example.dataset == "strategyqa" or answer == prompts.NOT_FOUND
        if not known and rest and draw.random() < REFUSED:
            left = [] if judged or draw.random() < 0.5 else texts
            near = [text for text in left + rest[:3] if judged or answer.lower() not in text.lower()]
            if near:
                return near, self.item(example.question, prompts.NOT_FOUND)
        if example.dataset in CHAINS and len(gold) > 1 and draw.random() < 0.15:
            # what did not fit is known from its note
            left = draw.randrange(len(gold))
            notes = " ".join(gold[left].sentences) or gold[left].text[:300]
            texts = [p.text for number, p in enumerate(gold) if number != left]
        return texts + extra, self.item(example.question, answer, notes)


def babi(root: Path) -> Iterator[Example]:
    """Yield the last questions of a tenth of the stories."""
    draw = random.Random(5)
    for row in read_lines(root / "stories/babi_en10k_train.jsonl.gz"):
        if draw.random() < 0.1:
            for number, qa in enumerate(row["qas"][-2:]):
                text = Paragraph(" ".join(row["lines"][: qa["upto"]]), supporting=True)
                yield Example(f"{row['id']}:{number}", row["id"], qa["q"], (qa["a"],), (text,), "babi")


def built(paths: Sequence[Path]) -> Iterator[Example]:
    """Yield the questions of build_questions.py and build_everyday.py."""
    for row in (json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()):
        texts = tuple(Paragraph(p["text"], p["supporting"]) for p in row["paragraphs"])
        yield Example(row["id"], row["group"], row["question"], tuple(row["answers"]), texts, row["dataset"])


def examples(root: Path, paths: Sequence[Path], validation_rows: int) -> tuple[list[Example], list[Example]]:
    """Return the questions that train, and those held out."""
    preset = load_settings("reasoner").data.questions
    more = (
        QuestionFile(path="qa/hotpotqa_train_gold_only.jsonl.gz"),
        QuestionFile(path="qa/strategyqa_train.jsonl.gz"),
    )
    rows = load_rows(DataConfig(questions=(*preset, *more), validation_rows=validation_rows), root)

    def usable(example: Example) -> bool:
        first = example.paragraphs[0].text
        whole = example.dataset != "fairytaleqa" or example.answers[0] in first or len(first) < 1100
        return whole and any(p.supporting for p in example.paragraphs)

    train = [e for e in rows.train if usable(e)]
    train += [e for e in (*babi(root), *built(paths)) if not is_held_out(e.group)]
    return train, [e for e in rows.held_out if usable(e)]


def logits(backbone: Backbone, reader: LoraAdapter, sheet: Sheet) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits at the target tokens, item after item, the targets and which item each is of, `[N, V]`, `[N]`."""
    kv, size = backbone.kv, len(sheet.texts)
    device = backbone.device
    ids, places, items, kept, targets = list(sheet.texts), list(range(size)), [-1] * size, [], []
    for number, item in enumerate(sheet.items):
        read = [*item.prompt, *item.target[:-1]]
        kept += range(len(ids) + len(item.prompt) - 1, len(ids) + len(read))
        ids += read
        places += range(size, size + len(read))
        items += [number] * len(read)
        targets += item.target
    of = torch.tensor(items, device=device)
    visible = (of[None] == of[:, None]) | (of[None] == -1)
    visible &= torch.ones_like(visible).tril()
    with reader.active(backbone.model):
        hidden = kv.forward(
            kv.start(1),
            ids=torch.tensor([ids], device=device),
            positions=torch.tensor([places], device=device),
            visible=visible[None],
        )
    number = torch.tensor([n for n, item in enumerate(sheet.items) for _ in item.target], device=device)
    return kv.logits(hidden[0, kept], precise=False), torch.tensor(targets, device=device), number


def read_loss(backbone: Backbone, reader: LoraAdapter, sheet: Sheet) -> Tensor:
    """Return the sum of the items' losses, nats a target token."""
    found, targets, number = logits(backbone, reader, sheet)
    sizes = torch.bincount(number)
    return weighted_cross_entropy(found, targets, 1 / sizes[number])


class Training:
    """The loss of a step and what is measured between steps."""

    def __init__(self, backbone: Backbone, options: argparse.Namespace) -> None:
        self.backbone, self.out = backbone, options.out
        self._ends = time.monotonic() + options.seconds
        train, self._held_out = examples(options.data, options.built, options.validation_rows)
        self._sampler = Sampler(backbone, train, options.seed, options.step_tokens)
        own = [example for example in train if example.dataset not in ("babi", "built", "everyday")]
        self._tasks = TaskSampler(backbone, own, [], budget=options.block_tokens, spans=0, seed=options.seed + 1000)
        self._blocks = ReadingLoss(backbone, kl_weight=0.0, span_weight=0.0)
        self._layout = FrozenRawLayout(
            backbone, LoraAdapter({}, alpha=1.0), torch.zeros(backbone.model.config.hidden_size)
        )
        self.reader = LoraAdapter.from_directory(options.start or default_directory() / "reasoner").single()

    def step(self, number: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yield a step's losses."""
        if time.monotonic() > self._ends:
            raise TimeIsUpError
        reader = self.reader.to(self.backbone.device, self.backbone.dtype)
        if number % 8 == 7:
            loss, metrics = self._blocks(self._layout, reader, self._tasks.draw(number), 0, train_text=True)
            yield loss, {f"block_{name}": value for name, value in metrics.items()}
            return
        sheets = self._sampler.draw(number)
        # what is asked of one text is alike: a sheet counts as the root of its questions
        weights = [len(sheet.items) ** -0.5 for sheet in sheets]
        counted = sum(len(sheet.items) ** 0.5 for sheet in sheets)
        for sheet, weight in zip(sheets, weights, strict=True):
            loss = read_loss(self.backbone, reader, sheet) * weight / counted
            yield loss, {"read": float(loss.detach()), "tokens": float(len(sheet)), "asked": float(len(sheet.items))}

    @torch.no_grad()
    def validate(self, number: int) -> dict[str, float]:
        """Measure held-out questions over their gold texts and two others; blocks every second time."""
        reader, right, losses = self.reader.to(self.backbone.device, self.backbone.dtype), [], []
        for example in self._held_out:
            draw = random.Random(example.id)
            texts = [p.text for p in example.paragraphs if p.supporting]
            texts += [p.text for p in example.paragraphs if not p.supporting][:2]
            read = [self._sampler.cut(text, example.answers[0], draw) for text in texts]
            draw.shuffle(read)
            asked = self._sampler.sheet(read, [self._sampler.item(example.question, example.answers[0])])
            found, targets, _ = logits(self.backbone, reader, asked)
            right.append(float((found.argmax(-1) == targets).all()))
            losses.append(float(torch.nn.functional.cross_entropy(found, targets)))
        record = {"held_out_exact_read": sum(right) / len(right), "held_out_loss_read": sum(losses) / len(losses)}
        if number % 200 == 0:
            tasks = [validation_task(self.backbone, self._held_out[at : at + 8]) for at in range(0, len(right), 8)]
            parts = [self._blocks.exact(self._layout, reader, task, 0) for task in tasks]
            record |= {f"held_out_{name}": sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        if number:
            self.reader.half().save(self.out / f"snapshot-{number}", base_model=self.backbone.name)
        return record


def main() -> None:
    """Train to the last step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--built", type=Path, nargs="*", default=(), help="of build_questions.py and build_everyday.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a reader's deltas; the packaged ones if left out")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--from-step", type=int, default=0, help="step that --start was trained to, in a new folder")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no step after so many")
    parser.add_argument("--step-tokens", type=int, default=2000)
    parser.add_argument("--block-tokens", type=int, default=900, help="of chunks in a step that rehearses blocks")
    parser.add_argument("--validation-rows", type=int, default=96)
    parser.add_argument("--model", help="directory or hub id of the backbone; the packaged one if left out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    backbone = load_backbone(options.model, device=options.device, dtype=options.dtype, attention="eager")
    training = Training(backbone, options)
    config = LoopConfig(steps=options.steps, learning_rate=options.learning_rate, validate_every=100, seed=options.seed)
    deltas = training.reader.deltas.items()
    parameters = {f"reader.{name}.{side}": t for name, pair in deltas for side, t in zip("AB", pair, strict=True)}
    loop = TrainingLoop(parameters, config, options.out, validate=training.validate)
    if not loop.resume():
        loop.step = options.from_step
    with suppress(TimeIsUpError):
        loop.train(training.step)
    training.reader.half().save(options.out / "reader", base_model=backbone.name)
    (options.out / "step").write_text(f"{loop.step}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
