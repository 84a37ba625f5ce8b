"""Reading blocks is reading text: equal routes give equal numbers."""

from dataclasses import replace

import pytest
import torch
from memrecall_kv.backbone.decoding import decode, generate, growing_text, replies, sample
from memrecall_kv.backbone.loading import wrap_backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.errors import ContextOverflowError, UnsupportedModelError
from memrecall_kv.testing import byte_tokenizer, tiny_backbone
from memrecall_kv.types import MemoryBlock
from transformers import GPT2Config, GPT2LMHeadModel, SmolLM3Config, SmolLM3ForCausalLM

FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]
DTYPES = [torch.float32, torch.bfloat16]
TEXTS = [
    b"The otter sleeps.",
    b"Rain",
    b"A letter arrived on Monday morning.",
    b"x",
    b"Ice",
    b"blue boat",
    b"7",
    b"no.",
]
QUESTION = [*b"Who sleeps?"]


@pytest.fixture(params=[f"{family}-{str(dtype)[6:]}" for family in FAMILIES for dtype in DTYPES])
def backbone(request, access):
    family, dtype = request.param.split("-")
    return access(family, getattr(torch, dtype))


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def assert_same(backbone, one, other):
    """Compare relative to the size of the numbers: float32 to rounding, bfloat16 to a few of its 8 bits."""
    assert one.shape == other.shape
    gap = (one.float() - other.float()).norm() / other.float().norm()
    assert gap < (1e-5 if backbone.dtype == torch.float32 else 0.03)


def assert_different(one, other):
    assert (one.float() - other.float()).norm() / other.float().norm() > 0.1


def identity_block(backbone, text):
    """Return a block that holds every token of a text."""
    prefill = backbone.kv.prefill([list(text)])
    positions = torch.arange(len(text), dtype=torch.int32)[None, None]
    return MemoryBlock(prefill.keys[:, 0], prefill.values[:, 0], positions, len(text), len(text))


def read(backbone, blocks, ids=QUESTION):
    """Return the hidden states of a text read after blocks, `[Q, hidden]`."""
    return backbone.kv.forward(backbone.kv.place([blocks]), ids=torch.tensor([ids]))[0]


def read_text(backbone, ids):
    """Return the hidden states of a text read after the sink, `[Q, hidden]`."""
    return backbone.kv.forward(backbone.kv.start(1), ids=torch.tensor([[backbone.sink_id, *ids]]))[0, 1:]


def placed_keys(backbone, blocks, start, end):
    """Return the keys of a state's columns as the backbone sees them, rotated, `[L, K, n, D]`."""
    columns = torch.arange(start, end)
    return backbone.kv.take(backbone.kv.place([blocks]), columns, torch.zeros(1, len(columns)))[0][
        :, 0
    ]  # un-rotating from 0 is nothing


def test_a_block_of_every_token_reads_like_the_text_in_place(backbone):
    block = identity_block(backbone, TEXTS[0])
    assert_same(backbone, read(backbone, [block]), read_text(backbone, [*TEXTS[0], *QUESTION])[-len(QUESTION) :])


def test_without_its_block_a_question_reads_differently(backbone):
    assert_different(read(backbone, []), read(backbone, [identity_block(backbone, TEXTS[0])]))


def test_nothing_placed_is_the_sink_alone(backbone):
    assert_same(backbone, read(backbone, []), read_text(backbone, QUESTION))


def test_a_prefill_split_at_any_point_is_the_whole_prefill(backbone):
    ids = [*TEXTS[0]]
    whole = read_text(backbone, ids)
    for split in (1, 8, len(ids) - 1):
        state = backbone.kv.place([[]])
        first = backbone.kv.forward(state, ids=torch.tensor([ids[:split]]))
        second = backbone.kv.forward(state, ids=torch.tensor([ids[split:]]))
        assert_same(backbone, torch.cat([first, second], dim=1)[0], whole)


def test_a_prefill_of_eight_texts_is_eight_prefills_of_one(backbone):
    batch = backbone.kv.prefill([list(text) for text in TEXTS])
    for row, text in enumerate(TEXTS):
        alone, size = backbone.kv.prefill([list(text)]), len(text)
        assert_same(backbone, batch.keys[:, row, :, :size], alone.keys[:, 0])
        assert_same(backbone, batch.values[:, row, :, :size], alone.values[:, 0])
        assert_same(backbone, batch.hidden[row, :size], alone.hidden[0])


def test_rows_of_unequal_blocks_and_questions_read_like_each_alone(backbone):
    rows = [[identity_block(backbone, text) for text in TEXTS[: index % 4]] for index in range(8)]
    questions = [QUESTION[: index + 2] for index in range(8)]
    ids, lengths = backbone.kv.pad(questions)
    state = backbone.kv.place(rows, width=80)
    hidden = backbone.kv.forward(state, ids=ids, lengths=lengths)
    follow_up = backbone.kv.forward(state, ids=torch.full((8, 1), 65))
    for row, (blocks, question) in enumerate(zip(rows, questions, strict=True)):
        alone = read(backbone, blocks, [*question, 65])
        assert_same(backbone, hidden[row, : len(question)], alone[:-1])
        assert_same(backbone, follow_up[row], alone[-1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_reads_like_sdpa(access, family):
    eager, sdpa = access(family, attention="eager"), access(family)
    assert {backbone.model.config._attn_implementation for backbone in (eager, sdpa)} == {"eager", "sdpa"}
    hidden = []
    for backbone in (eager, sdpa):
        blocks = [identity_block(backbone, text) for text in TEXTS]
        state = backbone.kv.place([blocks[:3], blocks[3:4]])
        ids, lengths = backbone.kv.pad([QUESTION, QUESTION[:3]])
        states = backbone.kv.forward(state, ids=ids, lengths=lengths)
        hidden.append(torch.cat([states[0], states[1, :3]]))
    assert_same(sdpa, *hidden)


def test_swapped_blocks_hold_keys_that_differ_by_their_rotation_alone(backbone):
    first, second = identity_block(backbone, TEXTS[0]), identity_block(backbone, TEXTS[1])
    size, other = first.num_memory_tokens, second.num_memory_tokens
    ahead = placed_keys(backbone, [first, second], 1, 1 + size)  # column 0 is the sink
    behind = placed_keys(backbone, [second, first], 1 + other, 1 + other + size)
    assert_different(behind, ahead)
    for placed, offset in ((ahead, 1), (behind, 1 + other)):
        positions = torch.arange(offset, offset + size)[None]
        assert_same(
            backbone, backbone.kv.rotate(placed[:, None], positions[None, :, None], inverse=True)[:, 0], first.keys
        )
        assert torch.equal(backbone.kv.rotate(first.keys[:, None], positions[None, :, None])[:, 0], placed)


def test_swapped_blocks_hold_the_same_values(backbone):
    first, second = identity_block(backbone, TEXTS[0]), identity_block(backbone, TEXTS[1])
    size, other = first.num_memory_tokens, second.num_memory_tokens
    ahead, behind = backbone.kv.place([[first, second]]), backbone.kv.place([[second, first]])
    zeros = torch.zeros(1, size)
    taken = backbone.kv.take(ahead, torch.arange(1, 1 + size), zeros)[1]
    assert torch.equal(backbone.kv.take(behind, torch.arange(1 + other, 1 + other + size), zeros)[1], taken)


def test_memory_tokens_may_stand_in_any_order_with_their_positions(backbone):
    block = identity_block(backbone, TEXTS[0])
    num_layers, num_heads, size, head_dim = block.keys.shape
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(num_layers, num_heads, size, generator=generator).argsort(dim=-1)  # another per layer and head
    wide = order[..., None].expand(-1, -1, -1, head_dim)
    shuffled = replace(
        block, keys=block.keys.gather(2, wide), values=block.values.gather(2, wide), positions=order.to(torch.int32)
    )
    assert_same(backbone, read(backbone, [shuffled]), read(backbone, [block]))
    assert_different(read(backbone, [replace(shuffled, positions=block.positions)]), read(backbone, [block]))


def test_a_block_placed_elsewhere_has_the_keys_of_a_text_read_there(backbone):
    block, ahead = identity_block(backbone, TEXTS[0]), identity_block(backbone, TEXTS[2])
    offset = 1 + ahead.extent
    state = backbone.kv.start(1)
    backbone.kv.forward(state, ids=torch.tensor([[backbone.sink_id, *TEXTS[2], *TEXTS[0]]]))
    columns = torch.arange(offset, offset + block.extent)
    in_place = backbone.kv.take(state, columns, torch.zeros(1, block.extent))[0][:, 0]
    # keys of the first layer depend on token and position alone, later ones also on what was read before
    assert_same(backbone, placed_keys(backbone, [ahead, block], offset, offset + block.extent)[0], in_place[0])


def test_a_blocks_extent_moves_what_follows(backbone):
    block = identity_block(backbone, TEXTS[0])
    assert backbone.kv.place([[block], []]).next_positions.tolist() == [1 + block.extent, 1]
    assert_different(read(backbone, [replace(block, extent=block.extent + 50)]), read(backbone, [block]))


def test_unrotated_placement_leaves_keys_as_stored_and_the_sink_out(backbone):
    block = identity_block(backbone, TEXTS[0])
    state = backbone.kv.place([[block]], unrotated=True)
    keys, values = backbone.kv.take(state, torch.arange(block.extent), torch.zeros(1, block.extent))
    assert torch.equal(keys[:, 0], block.keys)
    assert torch.equal(values[:, 0], block.values)
    assert state.next_positions.tolist() == [block.extent]


def test_embeddings_and_explicit_visibility_read_like_ids(backbone):
    ids = torch.tensor([[*TEXTS[0]]])
    size = ids.shape[1]
    expected = backbone.kv.forward(backbone.kv.start(1), ids=ids)
    visible = torch.ones(size, size, dtype=torch.bool).tril()[None]
    hidden = backbone.kv.forward(
        backbone.kv.start(1), embeds=backbone.kv.embed(ids), positions=torch.arange(size)[None], visible=visible
    )
    assert_same(backbone, hidden, expected)
    alone = torch.eye(size, dtype=torch.bool)[None]
    assert_different(backbone.kv.forward(backbone.kv.start(1), ids=ids, visible=alone), expected)


def test_logits_are_those_of_the_model(backbone):
    ids = torch.tensor([[*TEXTS[0]]])
    expected = backbone.model(ids).logits
    hidden = backbone.kv.forward(backbone.kv.start(1), ids=ids)
    assert_same(backbone, backbone.kv.logits(hidden), expected)
    assert_same(backbone, backbone.kv.logits(hidden, precise=False), expected)


@pytest.fixture(scope="module")
def partly_rotating():
    """Return a SmolLM3, whose second and fourth layers have no rotary positions."""
    config = SmolLM3Config(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        no_rope_layers=[1, 0, 1, 0],
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmolLM3ForCausalLM(config)
    return wrap_backbone(model, byte_tokenizer(), "tiny-smollm3")


def test_layers_without_positions_are_found_and_never_rotated(partly_rotating):
    backbone = partly_rotating
    block, ahead = identity_block(backbone, TEXTS[0]), identity_block(backbone, TEXTS[2])
    start = 1 + ahead.extent
    moved = placed_keys(backbone, [ahead, block], start, start + block.extent)
    for layer_idx in (1, 3):
        assert torch.equal(moved[layer_idx], block.keys[layer_idx])
    for layer_idx in (0, 2):
        assert_different(moved[layer_idx], block.keys[layer_idx])


def test_a_backbone_with_layers_without_positions_reads_blocks_like_text(partly_rotating):
    backbone = partly_rotating
    block = identity_block(backbone, TEXTS[0])
    assert_same(backbone, read(backbone, [block]), read_text(backbone, [*TEXTS[0], *QUESTION])[-len(QUESTION) :])


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    ],
)
def test_scaled_rotary_embeddings_are_undone_as_they_were_done(rope):
    backbone = tiny_backbone("llama", window=512, rope_parameters={"rope_theta": 10000.0, **rope})
    block, ahead = identity_block(backbone, TEXTS[0]), identity_block(backbone, TEXTS[2])
    assert_same(backbone, read(backbone, [block]), read_text(backbone, [*TEXTS[0], *QUESTION])[-len(QUESTION) :])
    start = 1 + ahead.extent
    columns, positions = torch.arange(start, start + block.extent), torch.arange(start, start + block.extent)[None]
    assert_same(
        backbone, backbone.kv.take(backbone.kv.place([[ahead, block]]), columns, positions)[0][:, 0], block.keys
    )


def test_a_backbone_with_learned_positions_is_refused():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=259, n_positions=64))
    with pytest.raises(UnsupportedModelError, match="rotary"):
        wrap_backbone(model, byte_tokenizer(), "tiny-gpt2")


def test_a_text_beyond_the_window_is_refused_with_both_numbers():
    backbone = tiny_backbone("llama", window=64)
    state = backbone.kv.place([[identity_block(backbone, b"x" * 40)]])
    backbone.kv.forward(state, ids=torch.zeros(1, 23, dtype=torch.long))  # 1 sink, 40, 23: just full
    with pytest.raises(ContextOverflowError, match=r"65 positions.*64"):
        backbone.kv.forward(state, ids=torch.zeros(1, 1, dtype=torch.long))


def test_a_forward_of_nothing_is_a_programming_error(access):
    backbone = access()
    with pytest.raises(TypeError, match="ids or embeds"):
        backbone.kv.forward(backbone.kv.start(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_generates_what_each_row_generates_alone(access, family):
    backbone = access(family)
    rows = [[identity_block(backbone, text)] for text in TEXTS[:3]]
    prompts = [QUESTION, QUESTION[:4], QUESTION[2:9]]
    together = list(generate(backbone, backbone.kv.place(rows), prompts, 12))
    for row, (blocks, prompt) in enumerate(zip(rows, prompts, strict=True)):
        alone = [step[0] for step in generate(backbone, backbone.kv.place([blocks]), [prompt], 12)]
        got = [step[row] for step in together if step[row] is not None]
        assert got == alone
        assert alone == greedy(backbone, blocks, prompt)[: len(alone)]


def greedy(backbone, blocks, prompt):
    """Decode by reading everything anew for each token."""
    ids = list(prompt)
    for _ in range(12):
        ids.append(int(backbone.kv.logits(read(backbone, blocks, ids)[-1]).argmax()))
    return ids[len(prompt) :]


def test_a_row_that_meets_a_stop_id_ends_and_the_others_go_on(access):
    free = list(generate(access("llama"), access("llama").kv.place([[], []]), [QUESTION, QUESTION[:4]], 12))
    columns = [[step[row] for step in free] for row in range(2)]
    stop = next(token for token in columns[0][1:] if token not in columns[1] and token != columns[0][0])
    backbone = tiny_backbone("llama", eos_token_id=[257, stop])
    steps = list(generate(backbone, backbone.kv.place([[], []]), [QUESTION, QUESTION[:4]], 12))
    end = columns[0].index(stop)
    assert [step[0] for step in steps] == columns[0][:end] + [None] * (12 - end)
    assert [step[1] for step in steps] == columns[1]
    assert [step[0] for step in generate(backbone, backbone.kv.place([[]]), [QUESTION], 12)] == columns[0][:end]


def test_no_steps_generate_nothing(access):
    backbone = access()
    assert list(generate(backbone, backbone.kv.place([[]]), [QUESTION], 0)) == []


def test_replies_are_what_is_generated_row_by_row(access):
    backbone, prompts = access(), [QUESTION, QUESTION[:4]]
    steps = list(generate(backbone, backbone.kv.place([[], []]), prompts, 6))
    expected = [[step[row] for step in steps if step[row] is not None] for row in range(2)]
    assert replies(backbone, backbone.kv.place([[], []]), prompts, 6) == expected


def test_at_a_low_temperature_the_likeliest_token_is_drawn_and_every_row_goes_on(access):
    backbone, prompts = access(), [QUESTION, QUESTION[:4]]
    choose = sample(backbone, 1e-4, torch.Generator().manual_seed(0))
    drawn = list(decode(backbone, backbone.kv.place([[], []]), prompts, 6, choose))
    assert [len(tokens) for tokens in drawn] == [2] * 6
    for row, reply in enumerate(replies(backbone, backbone.kv.place([[], []]), prompts, 6)):
        assert [tokens[row] for tokens in drawn][: len(reply)] == reply


def test_text_grows_by_whole_characters(access):
    backbone = access()
    tokens = backbone.encode("ab\u00e9\nc")
    assert list(growing_text(backbone, tokens)) == ["a", "ab", "ab\u00e9", "ab\u00e9\n", "ab\u00e9\nc"]


def test_one_line_ends_at_its_end_and_asks_for_no_further_token(access):
    backbone = access()
    tokens = iter(backbone.encode(" \nab\ncd"))
    assert list(growing_text(backbone, tokens, one_line=True)) == ["", "", "a", "ab", "ab"]
    assert backbone.decode(list(tokens)) == "cd"


def test_the_sink_is_the_untouched_backbones_whoever_reads_first():
    backbone = tiny_backbone("llama")
    first = tiny_backbone("llama").kv.sink
    adapter = LoraAdapter.create(backbone.model, ("k_proj", "v_proj"), rank=2, alpha=8)
    for _, second in adapter.deltas.values():
        torch.nn.init.ones_(second)
    with adapter.active(backbone.model):
        backbone.kv.place([[]])
        assert torch.equal(backbone.kv.sink.keys, first.keys)
    assert torch.equal(backbone.kv.sink.values, first.values)


def test_keys_of_several_layers_in_one_row_are_rotated_as_layer_by_layer(partly_rotating):
    """Where some layers do not rotate, neither do theirs."""
    kv, generator = partly_rotating.kv, torch.Generator().manual_seed(0)
    layers, (heads, dim) = len(kv.base.layers), kv.sink.keys.shape[1::2]
    keys = torch.randn(layers, 1, heads, 5, dim, generator=generator).to(kv.sink.keys.dtype)
    positions = torch.randint(0, 99, (layers, 1, heads, 5), generator=generator)
    whole = kv.rotate(keys, positions)
    rows, places = (tensor[:, 0].transpose(1, 2).flatten(0, 1) for tensor in (keys, positions))
    numbers = torch.arange(layers).repeat_interleave(5)
    order = torch.randperm(len(numbers), generator=generator)
    got = kv.rotate_rows(rows[order], places[order], numbers[order])
    torch.testing.assert_close(got, whole[:, 0].transpose(1, 2).flatten(0, 1)[order])
