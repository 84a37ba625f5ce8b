"""Texts written at the same time: the same as each alone, in fewer forwards, and none hurts another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import pytest
import torch
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.decoding import Rows, among
from memrecall_kv.backbone.kv import KVState, whole_blocks
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.errors import ContextOverflowError
from memrecall_kv.testing import Family, tiny_backbone

PROMPTS = ["What is it?", "Why", "A longer question than the others, which takes more tokens?", "Who?"]
LIMITS = [9, 3, 14, 6]


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """Fill a list with the number of tokens of each forward."""
    forwards: list[int] = []
    hook = backbone.kv.base.register_forward_pre_hook(
        lambda module, args, kwargs: forwards.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        yield forwards
    finally:
        hook.remove()


def states(backbone: Backbone) -> list[KVState]:
    """Return what four texts follow: nothing, or blocks of different lengths."""
    texts = [backbone.encode(text) for text in ("Dana approves.", "Lunch is at noon, as it always was.", "No.")]
    with torch.inference_mode():
        blocks = whole_blocks(backbone.kv.prefill(texts), texts)
        return [backbone.kv.place([given]) for given in ([], blocks[:1], blocks[1:], blocks)]


def written_alone(backbone: Backbone, rows: Rows) -> list[list[int]]:
    return [
        [token for token in rows.write(state, backbone.encode(prompt), limit) if token is not None]
        for state, prompt, limit in zip(states(backbone), PROMPTS, LIMITS, strict=True)
    ]


def opened(backbone: Backbone, rows: Rows) -> list[Iterator[int | None]]:
    return [
        rows.write(state, backbone.encode(prompt), limit)
        for state, prompt, limit in zip(states(backbone), PROMPTS, LIMITS, strict=True)
    ]


def in_turns(writing: Sequence[Iterator[int | None]]) -> list[list[int]]:
    """Return what each writes, a step of each after the other."""
    steps = zip_longest(*writing)
    return [[token for token in column if token is not None] for column in zip(*steps, strict=True)]


def forwards_of(texts: list[list[int]]) -> list[int]:
    """Return how many each text takes: one a token, and one for the end if it was written."""
    return [min(len(text) + 1, limit) for text, limit in zip(texts, LIMITS, strict=True)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_together_each_writes_what_it_writes_alone(family: Family, attention: str, seed: int) -> None:
    backbone = tiny_backbone(family, seed=seed, attention=attention)
    rows = Rows(backbone)
    alone = written_alone(backbone, rows)
    writing = opened(backbone, rows)
    with counted(backbone) as forwards:
        assert in_turns(writing) == alone
    assert len(forwards) == max(forwards_of(alone))
    assert forwards[0] == sum(len(backbone.encode(prompt)) for prompt in PROMPTS)
    assert len({len(text) for text in alone}) > 1


def test_one_text_makes_a_forward_for_its_prompt_and_for_each_token_but_the_last() -> None:
    backbone = tiny_backbone()
    with counted(backbone) as forwards:
        text = list(Rows(backbone).write(backbone.kv.place([[]]), backbone.encode("What?"), 5))
    assert text[0] is None
    assert forwards == [5, 1, 1, 1, 1]
    with counted(backbone) as forwards:
        writing = Rows(backbone).write(backbone.kv.place([[]]), backbone.encode("What?"), 5)
        next(writing), next(writing)
        writing.close()
    assert forwards == [5]


def test_a_text_may_come_later_and_one_that_is_closed_is_read_no_more() -> None:
    backbone = tiny_backbone()
    rows = Rows(backbone)
    alone = written_alone(backbone, rows)
    first, second, third, _ = opened(backbone, rows)
    assert [next(first), next(first), next(first)] == [None, *alone[0][:2]]
    with counted(backbone) as forwards:
        assert [next(third), next(third), next(third)] == [None, *alone[2][:2]]
        assert next(first) == alone[0][2]
        first.close()
        assert in_turns([third, second]) == [alone[2][2:], alone[1]]
    prompts = [len(backbone.encode(prompt)) for prompt in PROMPTS]
    assert forwards[:4] == [prompts[2] + 1, 1, 1, 1 + prompts[1]]
    assert max(forwards[4:]) == 2


def test_a_text_whose_reader_pauses_is_read_on_by_one_step() -> None:
    backbone = tiny_backbone()
    rows = Rows(backbone)
    alone = written_alone(backbone, rows)
    paused, _, going, _ = opened(backbone, rows)
    next(paused), next(going)
    assert next(going) == alone[2][0]
    with counted(backbone) as forwards:
        assert list(going) == alone[2][1:]
    assert forwards == [1] * (len(alone[2]) - 1)
    assert list(paused) == alone[0]


def test_what_one_text_cannot_do_does_not_hurt_the_others() -> None:
    backbone = tiny_backbone(window=96)
    rows = Rows(backbone)
    alone = [
        [token for token in rows.write(backbone.kv.place([[]]), backbone.encode(text), 30) if token is not None]
        for text in ("What?", "Who is it?")
    ]

    def refuses(logits: torch.Tensor) -> int:
        raise ZeroDivisionError

    place = backbone.kv.place
    fine = [rows.write(place([[]]), backbone.encode(text), 30) for text in ("What?", "Who is it?")]
    failing = rows.write(place([[]]), backbone.encode("Why?"), 30, refuses)
    long = rows.write(place([[]]), backbone.encode("x" * 90), 30)
    endless = rows.write(place([[]]), backbone.encode("y" * 100), 30)
    writing = [failing, endless, fine[0], long, fine[1]]
    assert [next(each) for each in writing] == [None] * 5
    with pytest.raises(ContextOverflowError):
        next(endless)
    with pytest.raises(ZeroDivisionError):
        next(failing)
    written: list[list[int]] = [[], [], []]
    with pytest.raises(ContextOverflowError):
        while True:
            for text, each in zip(written, (*fine, long), strict=True):
                text.append(next(each))
    assert [[*text, *each] for text, each in zip(written[:2], fine, strict=True)] == alone
    assert len(written[2]) == 96 - 91 + 1


@pytest.mark.parametrize("layer", [0, 1])
def test_after_a_forward_that_failed_midway_the_others_write_on(layer: int) -> None:
    backbone = tiny_backbone()
    rows = Rows(backbone)
    alone = written_alone(backbone, rows)
    writing = opened(backbone, rows)
    _, *steps = [[next(each) for each in writing] for _ in range(3)]

    def fail(*_: object) -> None:
        raise MemoryError

    hook = backbone.kv.base.layers[layer].mlp.register_forward_hook(fail)
    with pytest.raises(MemoryError):
        next(writing[0])
    hook.remove()
    _, *written = zip(*steps, strict=True)
    assert [[*begun, *end] for begun, end in zip(written, in_turns(writing[1:]), strict=True)] == alone[1:]


def test_a_chosen_reply_and_free_text_share_forwards() -> None:
    backbone = tiny_backbone()
    rows, replies = Rows(backbone), [backbone.encode(text) for text in (" yes", " no", " nobody")]
    alone = written_alone(backbone, rows)
    prompt = backbone.encode("Is it?")

    def choosing() -> Iterator[int | None]:
        return rows.write(backbone.kv.place([[]]), prompt, 20, among(backbone, replies))

    single = [token for token in choosing() if token is not None]
    assert single in replies
    with counted(backbone) as forwards:
        assert in_turns([*opened(backbone, rows), choosing()]) == [*alone, single]
    assert len(forwards) < 20


def test_deltas_are_on_for_their_own_texts_alone() -> None:
    backbone = tiny_backbone()
    adapter = LoraAdapter.create(backbone.model, ("q_proj", "v_proj", "down_proj"), rank=2, alpha=8.0)
    generator = torch.Generator().manual_seed(0)
    for _, second in adapter.deltas.values():
        second.copy_(torch.randn(second.shape, generator=generator))
    plain, tuned = Rows(backbone), Rows(backbone, lambda: adapter.active(backbone.model))
    expected = [written_alone(backbone, rows) for rows in (plain, tuned)]
    assert expected[0] != expected[1]
    assert in_turns([*opened(backbone, plain), *opened(backbone, tuned)]) == expected[0] + expected[1]


def test_a_backbone_whose_attention_is_its_own_writes_text_after_text() -> None:
    backbone = tiny_backbone()
    backbone.kv.base._supports_attention_backend = False
    rows = Rows(backbone)
    alone = written_alone(backbone, rows)
    writing = opened(backbone, rows)
    with counted(backbone) as forwards:
        assert in_turns(writing) == alone
    assert len(forwards) == sum(forwards_of(alone))
