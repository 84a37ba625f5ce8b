"""Stage 3: rollouts of whole trajectories, their reward, the loss that comes of them, and its training.

Source: LycheeMemory, arXiv:2602.08382, joint reinforcement learning; losses in `rl.py`. Deviations:

1. Every batch of rollouts is trained on once, so that the policy is the one that drew it.
2. The reward is F1 against the best answer, strict, not exact match alone: a group of short rollouts of a small
   model seldom holds an exact one. Format and grounding can be added.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.decoding import decode, sample
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.evaluate.measures.metrics import f1_score
from memrecall_kv.recall import grounding, prompts
from memrecall_kv.train.data import Example, load_rows
from memrecall_kv.train.loop import Report, train_to_end
from memrecall_kv.train.policy import Policy
from memrecall_kv.train.rl import group_advantages, policy_loss, token_entropy
from memrecall_kv.train.settings import RlTraining
from memrecall_kv.types import MemoryBlock


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply of a rollout.

    Attributes:
        chunks: Indices of the blocks that stand before the prompt.
        prompt: Token ids.
        reply: Token ids that were drawn, with the end token if there is one.
    """

    chunks: tuple[int, ...]
    prompt: tuple[int, ...]
    reply: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A rollout: its notes and, last, its answer."""

    turns: tuple[Turn, ...]
    answer: str
    ended: bool


class Rollouts:
    """Draws trajectories and turns them into losses.

    Args:
        backbone: The model, frozen.
        settings: Of stage `rl`.
    """

    def __init__(self, backbone: Backbone, settings: RlTraining) -> None:
        self._backbone = backbone
        self._settings = settings

    def draw(
        self, reader: LoraAdapter, blocks: Sequence[MemoryBlock], question: str, generator: torch.Generator
    ) -> list[Trajectory]:
        """Return a group of trajectories for one question over its blocks."""
        size, settings, backbone = self._settings.group_size, self._settings, self._backbone
        notes: list[list[str]] = [[] for _ in range(size)]
        turns: list[list[Turn]] = [[] for _ in range(size)]
        for place in range(len(blocks)) if settings.note_tokens else ():
            asked = [backbone.encode(prompts.trained_note(question, " ".join(known))) for known in notes]
            replies = self._sample(reader, [[blocks[place]]] * size, asked, settings.note_tokens, generator)
            for row, reply in enumerate(replies):
                turns[row].append(Turn((place,), tuple(asked[row]), tuple(reply)))
                text = self._text(reply)
                if not prompts.is_nothing(text):
                    notes[row].append(text)
        places = () if settings.note_tokens else tuple(range(len(blocks)))
        asked = [backbone.encode(prompts.trained_answer(question, " ".join(known))) for known in notes]
        rows = [[blocks[place] for place in places]] * size
        replies = self._sample(reader, rows, asked, settings.answer_tokens, generator)
        ends = backbone.stop_ids
        return [
            Trajectory(
                (*turns[row], Turn(places, tuple(asked[row]), tuple(reply))), self._text(reply), reply[-1] in ends
            )
            for row, reply in enumerate(replies)
        ]

    def reward(self, trajectory: Trajectory, example: Example, texts: Sequence[str]) -> float:
        """Return what a trajectory earned: F1 of its answer, plus what the settings add."""
        settings = self._settings
        earned = f1_score(trajectory.answer, example.answers)
        earned += settings.format_weight * trajectory.ended
        grounded = bool(settings.grounding_weight) and grounding.is_grounded(trajectory.answer, list(texts))
        return earned + settings.grounding_weight * grounded

    def loss(
        self,
        reader: LoraAdapter,
        reference: LoraAdapter,
        blocks: Sequence[MemoryBlock],
        fixed: Sequence[MemoryBlock],
        group: Sequence[Trajectory],
        rewards: Sequence[float],
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a group; its gradient reaches the reader, and the compressor through its blocks.

        Args:
            reader: The policy's deltas, with gradient.
            reference: Those it started from.
            blocks: Blocks of the policy's compressor, with gradient if it has any.
            fixed: Blocks of the reference's compressor.
            group: The trajectories.
            rewards: What each earned.
        """
        earned = torch.tensor(rewards, device=self._backbone.device)
        gains = group_advantages(earned, group_size=len(group))
        # outcome reward: every turn of a trajectory carries the trajectory's advantage
        turns = [turn for trajectory in group for turn in trajectory.turns]
        advantages = torch.cat([gain.repeat(len(t.turns)) for gain, t in zip(gains, group, strict=True)])
        new, mask, entropy = self.log_probabilities(reader, blocks, turns)
        with torch.no_grad():
            old = new.detach()
            anchor, _, _ = self.log_probabilities(reference, fixed, turns)
        parts = policy_loss(
            new, old, anchor, mask, advantages, clip=self._settings.clip, kl_coef=self._settings.kl_coef
        )
        metrics = {
            "reward": float(earned.mean()),
            "reward_spread": float(earned.std()),
            "divergence": parts.divergence,
            "clip_share": parts.clip_share,
            "entropy": entropy,
            "reply_tokens": float(mask.sum() / len(turns)),
        }
        return parts.loss, metrics

    def log_probabilities(
        self, reader: LoraAdapter, blocks: Sequence[MemoryBlock], turns: Sequence[Turn]
    ) -> tuple[Tensor, Tensor, float]:
        """Return the log-probabilities of drawn tokens, which are real, and the mean entropy, nats.

        Shapes:
            return: `[N, T]` float32 and bool, N turns, T the longest reply.
        """
        backbone = self._backbone
        state = backbone.kv.place([[blocks[place] for place in turn.chunks] for turn in turns])
        ids, lengths = backbone.kv.pad([[*turn.prompt, *turn.reply[:-1]] for turn in turns])
        with reader.active(backbone.model):
            hidden = backbone.kv.forward(state, ids=ids, lengths=lengths)
        width = max(len(turn.reply) for turn in turns)
        first = torch.tensor([len(turn.prompt) - 1 for turn in turns], device=ids.device)
        steps = torch.arange(width, device=ids.device)
        sizes = torch.tensor([len(turn.reply) for turn in turns], device=ids.device)
        mask = steps < sizes[:, None]
        columns = (first[:, None] + steps).clamp_max(ids.shape[1] - 1)
        picked = hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))[mask]  # [real tokens, hidden]
        logits = backbone.kv.logits(picked, precise=False) / self._settings.temperature
        drawn = torch.tensor([token for turn in turns for token in turn.reply], device=ids.device)
        chosen = logits.gather(-1, drawn[:, None])[:, 0] - logits.logsumexp(dim=-1)
        found = torch.zeros(mask.shape, device=ids.device).masked_scatter(mask, chosen)
        return found, mask, float(token_entropy(logits.detach()).mean())

    def _sample(
        self,
        reader: LoraAdapter,
        rows: Sequence[Sequence[MemoryBlock]],
        asked: Sequence[Sequence[int]],
        limit: int,
        generator: torch.Generator,
    ) -> list[list[int]]:
        """Draw one reply per row, up to and with an end token."""
        stops = self._backbone.stop_ids
        replies: list[list[int]] = [[] for _ in asked]
        with torch.no_grad():
            state = self._backbone.kv.place(rows)
        choose = sample(self._backbone, self._settings.temperature, generator)
        tuned = partial(reader.active, self._backbone.model)
        for tokens in decode(self._backbone, state, asked, limit, choose, tuned):
            for reply, token in zip(replies, tokens, strict=True):
                if not reply or reply[-1] not in stops:
                    reply.append(token)
            if all(reply[-1] in stops for reply in replies):
                break
        return replies

    def _text(self, reply: Sequence[int]) -> str:
        stops = self._backbone.stop_ids
        return self._backbone.decode([token for token in reply if token not in stops]).partition("\n")[0].strip()


def train_rl(
    backbone: Backbone,
    settings: RlTraining,
    root: Path,
    out: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> None:
    """Train reader, and compressor where there is a ratio, from rewards; arguments as in `reading.train_reading`."""
    rows = load_rows(settings.data, root)
    loop_config, start = settings.loop, Path(settings.start_from)
    reader, reference = (Policy.load(backbone, start, ratio=settings.ratio) for _ in range(2))
    rollouts = Rollouts(backbone, settings)

    def group(number: int, examples: Sequence[Example]) -> Iterator[tuple[Tensor, dict[str, float]]]:
        for place, example in enumerate(examples):
            draw = random.Random(f"{loop_config.seed}:{number}:{place}")  # noqa: S311  # sampling, not secrecy
            texts = _shuffled(example, draw)
            generator = torch.Generator().manual_seed(draw.randrange(2**31))
            with torch.no_grad():
                fixed = reader.blocks(texts)
            drawn = rollouts.draw(reader.live(), fixed, example.question, generator)
            rewards = [rollouts.reward(trajectory, example, texts) for trajectory in drawn]
            blocks = reader.blocks(texts) if settings.ratio else fixed
            anchor = reference.blocks(texts) if settings.ratio else fixed
            loss, metrics = rollouts.loss(reader.live(), reference.live(), blocks, anchor, drawn, rewards)
            yield loss / len(examples), {name: value / len(examples) for name, value in metrics.items()}

    def step(number: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        draw = random.Random(f"{loop_config.seed}:prompts:{number}")  # noqa: S311  # sampling, not secrecy
        return group(number, draw.sample(rows.train, min(settings.prompts, len(rows.train))))

    def validate(_: int) -> dict[str, float]:
        """Measure the reward of greedy-like rollouts: the same draws every time, so that curves compare."""
        earned = []
        with torch.no_grad():
            for number, example in enumerate(rows.held_out):
                texts = _shuffled(example, random.Random(number))  # noqa: S311  # sampling, not secrecy
                generator = torch.Generator().manual_seed(number)
                drawn = rollouts.draw(reader.live(), reader.blocks(texts), example.question, generator)
                earned += [rollouts.reward(trajectory, example, texts) for trajectory in drawn]
        return {"held_out_reward": sum(earned) / len(earned)}

    if train_to_end(reader.parameters(), loop_config, out, step, validate, resume=resume, report=report):
        reader.save(out)


def _shuffled(example: Example, draw: random.Random) -> list[str]:
    """Return the gold paragraphs of an example and two others, in some order."""
    gold = [p.text for p in example.paragraphs if p.supporting]
    rest = [p.text for p in example.paragraphs if not p.supporting]
    texts = gold + draw.sample(rest, min(2, len(rest)))
    draw.shuffle(texts)
    return texts
