import gzip
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.settings import TaskConfig
from memrecall_kv.evaluate.shelf import ChunkShelf, Shelf
from memrecall_kv.evaluate.tasks.everyday import documents
from memrecall_kv.evaluate.tasks.haystack import RUN, Haystack, arrange, words
from memrecall_kv.evaluate.tasks.synthetic import PUZZLES
from memrecall_kv.evaluate.tasks.tasks import TASKS, find_task
from memrecall_kv.types import Chunk

MULTIHOP = ["ruler-hqa", "2wiki", "musique"]


def contexts(task, data, **settings):
    return list(find_task(task)(data, TaskConfig(**{"documents": 20, "questions": 4, **settings})))


def texts(context):
    return {document.id: document.text for document in context.documents}


def plain(context):
    return context.id, context.questions, list(context.documents)


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_questions_and_documents(task, data):
    one, again, other = (contexts(task, data, seed=seed) for seed in (3, 3, 4))
    assert [plain(context) for context in one] == [plain(context) for context in again]
    assert [plain(context) for context in one] != [plain(context) for context in other]


def test_another_process_makes_the_same_questions_and_documents(data):
    code = (
        "import sys, hashlib, pathlib\n"
        "from memrecall_kv.evaluate.tasks.tasks import TASKS\n"
        "from memrecall_kv.evaluate.settings import TaskConfig\n"
        "assert 'torch' not in sys.modules\n"
        "config = TaskConfig(documents=20, questions=4)\n"
        "found = [(c.id, c.questions, list(c.documents)) for task in TASKS.values() "
        "for c in task(pathlib.Path(sys.argv[1]), config)]\n"
        "print(hashlib.sha256(repr(found).encode()).hexdigest())"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", code, str(data)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("task", TASKS)
def test_documents_can_be_walked_through_again_and_gold_is_among_them(task, data):
    for context in contexts(task, data):
        found = texts(context)
        assert texts(context) == found
        assert all(set(question.gold) <= set(found) for question in context.questions)
        assert len(set(found)) == len(list(context.documents))


@pytest.mark.parametrize("task", [*MULTIHOP, *PUZZLES, "babi-long", "common-words"])
def test_the_length_is_the_number_of_documents_and_the_questions_stay_the_same(task, data):
    short, long = contexts(task, data, documents=17), contexts(task, data, documents=33)
    assert {len(texts(context)) for context in short} == {17}
    assert {len(texts(context)) for context in long} == {33}
    assert [c.questions[0].text for c in short] == [c.questions[0].text for c in long]


@pytest.mark.parametrize("task", MULTIHOP)
def test_a_longer_haystack_holds_the_shorter_one(task, data):
    short, long = (contexts(task, data, documents=n)[0] for n in (12, 30))
    assert set(texts(short).values()) < set(texts(long).values())


@pytest.mark.parametrize("task", MULTIHOP)
def test_gold_is_given_in_hop_order(task, data):
    for context in contexts(task, data):
        (question,) = context.questions
        first, last = (texts(context)[one] for one in question.gold)
        assert first.startswith("Book")
        assert question.answers[0] in last


@pytest.mark.parametrize("order", ["forward", "reversed"])
@pytest.mark.parametrize("task", [*MULTIHOP, "niah-multivalue", "variable-tracking"])
def test_evidence_stands_in_the_order_that_was_asked_for(task, order, data):
    for context in contexts(task, data, order=order):
        gold = list(context.questions[0].gold)
        assert len(gold) >= 2
        assert sorted(gold, reverse=order == "reversed") == gold


def test_random_order_is_neither(data):
    golds = [list(c.questions[0].gold) for c in contexts("ruler-hqa", data, questions=12)]
    forward = sum(sorted(gold) == gold for gold in golds)
    assert 0 < forward < len(golds)


@pytest.mark.parametrize("task", MULTIHOP)
def test_each_question_has_a_permutation_of_its_own(task, data):
    places = {context.questions[0].gold for context in contexts(task, data, questions=8)}
    assert len(places) > 4


@pytest.mark.parametrize("task", MULTIHOP)
def test_no_filler_holds_an_answer_or_a_copy_of_an_own_paragraph(task, data):
    for context in contexts(task, data, documents=40, questions=12):
        (question,) = context.questions
        for doc_id, text in texts(context).items():
            held = any(re.search(rf"\b{answer}\b", text) for answer in question.answers)
            assert not held or doc_id in question.gold
        assert len(set(texts(context).values())) == 40


@pytest.mark.parametrize("task", [f"{name}-unanswerable" for name in MULTIHOP])
def test_without_gold_no_document_holds_an_answer(task, data):
    answered = {c.questions[0].id: c.questions[0].answers for c in contexts(task.rpartition("-")[0], data)}
    for context in contexts(task, data):
        (question,) = context.questions
        assert (question.answers, question.gold) == ((), ())
        assert len(texts(context)) == 20
        assert not any(answer in text for answer in answered[question.id] for text in texts(context).values())


def test_questions_that_share_a_context_do_not_answer_each_other(data):
    (context,) = contexts("ruler-hqa", data, documents=40, share=4)
    assert len(context.questions) == 4
    for question in context.questions:
        holding = {one for one, text in texts(context).items() if re.search(rf"\b{question.answers[0]}\b", text)}
        assert holding == {question.gold[-1]}


def test_rows_that_would_answer_each_other_go_into_different_contexts(data, tmp_path):
    for name in ("qa", "text"):
        (tmp_path / name).mkdir()
    (tmp_path / "text/wikipedia_pool.jsonl.gz").write_bytes((data / "text/wikipedia_pool.jsonl.gz").read_bytes())
    with gzip.open(data / "qa/hotpotqa_dev.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][:2]
    rows[1]["paragraphs"][0]["text"] += f" He moved to {rows[0]['answers'][0]}."
    with gzip.open(tmp_path / "qa/hotpotqa_dev.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert len(contexts("ruler-hqa", tmp_path, share=2)) == 2


@pytest.mark.parametrize("task", PUZZLES)
def test_needles_stand_in_their_documents_and_the_answers_nowhere_else(task, data):
    for context in contexts(task, None, documents=30, share=2):
        for question in context.questions:
            found = texts(context)
            for answer in question.answers:
                holding = [one for one, text in found.items() if re.search(rf"\b{answer}\b", text)]
                assert holding
                assert set(holding) <= set(question.gold)


def test_common_words_stand_in_every_list(data):
    context = contexts("common-words", None, documents=5)[0]
    (question,) = context.questions
    assert len(question.answers) == 10
    assert all(set(question.answers) <= set(words(text)) for text in texts(context).values())


def test_babi_facts_keep_their_order_between_passages(data):
    for context in contexts("babi-long", data, questions=10):
        (question,) = context.questions
        joined = " ".join(texts(context).values())
        assert joined.index("Mary went to the hall.") < joined.index("John went to the kitchen.")
        assert question.answers[0] in texts(context)[question.gold[0]]
        assert question.kind in {"qa1", "qa2", "qa3", "qa4", "qa5"}


def test_a_story_stands_whole_among_others(data):
    for context in contexts("fairytaleqa", data, documents=9):
        (question,) = context.questions
        number = re.search(r"\d+", question.text)[0]
        parts = [text for text in texts(context).values() if text.startswith(f"Tale {number},")]
        assert [re.search(r"part (\d)", text)[1] for text in parts] == ["1", "2", "3"]
        assert "part 2" in texts(context)[question.gold[0]]
        assert len(texts(context)) == 9


@given(st.integers(2, 30), st.data())
def test_arranging_moves_only_the_gold(total, data):
    gold = data.draw(st.lists(st.integers(0, total - 1), unique=True, max_size=6))
    orders = {name: arrange(total, gold, name, random.Random(1)) for name in ("random", "forward", "reversed")}
    assert all(sorted(order) == list(range(total)) for order in orders.values())
    rest = [[item for item in order if item not in gold] for order in orders.values()]
    assert rest[0] == rest[1] == rest[2]
    assert [item for item in orders["forward"] if item in gold] == gold
    assert [item for item in orders["reversed"] if item in gold] == gold[::-1]


WORD = st.sampled_from("alpha beta gamma delta kappa sigma omega".split())
TEXT = st.lists(WORD, min_size=1, max_size=30).map(" ".join)


@given(
    st.lists(TEXT, max_size=20), st.lists(TEXT, min_size=1, max_size=3), st.lists(WORD, max_size=2), st.integers(0, 9)
)
def test_a_haystack_keeps_its_rules(pool, own, answers, key):
    haystack = Haystack(pool)
    allowed = 0
    for text in set(pool):
        split = words(text)
        copied = split in [words(one) for one in own] or any(
            split[start : start + RUN] == words(one)[place : place + RUN]
            for one in own
            for start in range(len(split) - RUN + 1)
            for place in range(len(words(one)) - RUN + 1)
        )
        allowed += not copied and not set(answers) & set(split)
    picked = haystack.pick(allowed, beside=own, without=answers, key=str(key))
    assert len({haystack[number] for number in picked}) == allowed
    assert not any(set(answers) & set(words(haystack[number])) for number in picked)
    with pytest.raises(InputError, match="paragraphs for a haystack"):
        haystack.pick(allowed + 1, beside=own, without=answers, key=str(key))


@given(st.lists(st.text()))
def test_a_shelf_gives_back_what_was_put_on_it(rows):
    rows = [row.encode("utf-8", "ignore").decode() for row in rows]
    shelf = Shelf(rows)
    assert (len(shelf), list(shelf), [shelf[n] for n in range(len(rows))]) == (len(rows), rows, rows)
    chunks = ChunkShelf(Chunk("d", n, 0, len(row), row, 7) for n, row in enumerate(rows))
    assert [chunks[n].text for n in range(len(chunks))] == list(chunks.texts()) == rows
    assert chunks.num_tokens == 7 * len(rows)


def test_a_long_context_is_never_in_memory(tmp_path, data):
    (tmp_path / "qa").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "qa/hotpotqa_dev.jsonl.gz").write_bytes((data / "qa/hotpotqa_dev.jsonl.gz").read_bytes())
    with gzip.open(tmp_path / "text/wikipedia_pool.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps({"title": f"{n}", "text": f"river {n} " * 300}) + "\n" for n in range(2000))
    tracemalloc.start()
    context = contexts("ruler-hqa", tmp_path, documents=1500, questions=1)[0]
    length = sum(len(document.text) for document in context.documents)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length > 4_000_000
    assert peak < length / 4


@pytest.mark.parametrize(
    ("task", "settings", "problem"),
    [
        ("ruler-hqa", {"documents": 3}, "at least 4 documents"),
        ("ruler-hqa", {"documents": 500}, "paragraphs for a haystack"),
        ("niah-multivalue", {"documents": 3}, "at least 4 documents"),
        ("babi-long", {"documents": 500}, "at most"),
        ("babi-long", {"documents": 1}, "one for each fact"),
        ("babi-long", {"order": "reversed"}, "order of the story"),
        ("fairytaleqa", {"order": "random"}, "order of the story"),
        ("everyday", {"order": "reversed"}, "texts in their order"),
        ("common-words", {"share": 2}, "one question per context"),
    ],
)
def test_what_cannot_be_built_is_an_error(task, settings, problem, data):
    with pytest.raises(InputError, match=problem):
        contexts(task, data, **settings)


def test_everyday_questions_rest_on_their_texts_and_half_of_them_is_kept():
    asked = [question for text in documents() for question in text["questions"]]
    assert (len(documents()), len(asked), sum(question["kept"] for question in asked)) == (12, 138, 69)
    assert len({question["ask"] for question in asked}) == 138
    assert len({text["language"] for text in documents()}) == 7
    for text in documents():
        for question in text["questions"]:
            if not question["answers"]:
                assert question["kind"] == "unanswerable"
                continue
            assert question["span"] in text["text"]
            # what is no judgement stands in the text as it is
            if question["kind"] not in ("yes or no", "comparison"):
                stands = [answer.casefold() in text["text"].casefold() for answer in question["answers"]]
                assert all(stands) if question.get("wanted") == "all" else any(stands)
    (half,), (other,) = (contexts(task, None, questions=None) for task in ("everyday", "everyday-kept"))
    assert {question.id for question in half.questions}.isdisjoint(question.id for question in other.questions)
    assert len(half.questions) == len(other.questions) == 69
    assert texts(half) == texts(other)
    follow_ups = [question for question in half.questions + other.questions if question.kind == "follow-up"]
    assert len(follow_ups) == 12
    assert all(len(question.turns[0]) == 2 and all(question.turns[0]) for question in follow_ups)
    assert sum(len(question.turns) for question in half.questions + other.questions) == 12
    assert all(bool(question.span) == bool(question.answers) for question in half.questions)
    (first,) = contexts("everyday", None, documents=1, questions=None)
    assert {question.id.partition(":")[0] for question in first.questions} == {"travel-handbook"}


def test_missing_data_are_an_error(data, tmp_path):
    with pytest.raises(InputError, match="folder with evaluation data, got none"):
        contexts("ruler-hqa", None)
    with pytest.raises(InputError, match="folder with evaluation data"):
        contexts("ruler-hqa", tmp_path / "gone")
    with pytest.raises(InputError, match="hotpotqa_dev"):
        contexts("ruler-hqa", tmp_path)
    (tmp_path / "qa").mkdir()
    with gzip.open(tmp_path / "qa/hotpotqa_dev.jsonl.gz", "wt") as file:
        file.write('{"id": 1')
    with pytest.raises(InputError, match="line 1"):
        contexts("ruler-hqa", tmp_path)


def test_an_unknown_task_is_an_error_that_names_the_known_ones():
    with pytest.raises(InputError, match="ruler-hqa") as caught:
        find_task("squad")
    assert "squad" in caught.value.message
