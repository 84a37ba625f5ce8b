import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memrecall_kv.evaluate.measures import metrics
from memrecall_kv.evaluate.measures.calibration import calibration_error, precision_recall, reliability
from memrecall_kv.evaluate.measures.metrics import (
    bootstrap_interval,
    exact_match,
    f1_score,
    hop_order,
    loose_sub_em,
    normalize_answer,
    paired_interval,
    precision,
    recall_at_k,
    sub_em,
)
from memrecall_kv.evaluate.question import Question
from memrecall_kv.evaluate.scores import answer_scores, evidence_scores
from memrecall_kv.evaluate.systems.system import Reply

TEXT = st.text(alphabet="ab cdno.,'", max_size=20)
ANSWERS = st.lists(TEXT, min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("said", "answers", "strict", "loose"),
    [
        ("It is the city of Lisbon, Portugal.", ["Lisbon"], 1, 1),
        ("Lisbon", ["Greater Lisbon"], 0, 1),  # the published measure takes a part of the answer for it
        ("It is unknown.", ["no"], 0, 1),  # and characters inside a word
        ("a", ["Lisbon"], 0, 1),  # and a reply of which nothing is left
        ("", ["Lisbon"], 0, 0),
        ("Lisboa", ["Lisbon", "Lisboa"], 1, 0),  # and only the first alias
        ("Not Oslo but Lis bon", ["Lisbon"], 0, 0),
        ("No, they are not.", ["no"], 1, 1),
        ("They say no more.", ["no"], 0, 1),
        ("The Who", ["The The"], 0, 1),
        ("the the", ["The The"], 1, 1),
    ],
)
def test_strict_and_published_sub_em(said, answers, strict, loose):
    assert (sub_em(said, answers), loose_sub_em(said, answers)) == (strict, loose)


@given(TEXT, ANSWERS)
def test_exact_match_implies_sub_em_and_full_f1(said, answers):
    if exact_match(said, answers) and normalize_answer(said):
        assert sub_em(said, answers) == 1.0
        assert f1_score(said, answers) == 1.0


@given(TEXT, ANSWERS, TEXT)
def test_measures_stay_in_range_and_more_aliases_never_hurt(said, answers, other):
    for measure in (exact_match, f1_score, sub_em):
        assert 0.0 <= measure(said, answers) <= measure(said, [*answers, other]) <= 1.0


@given(TEXT, TEXT)
def test_strict_sub_em_implies_the_published_one(said, answer):
    if normalize_answer(answer):
        assert sub_em(said, [answer]) <= loose_sub_em(said, [answer])


@given(st.lists(st.text(alphabet="xy", min_size=1, max_size=3), min_size=1, max_size=5), TEXT, TEXT)
def test_an_answer_between_other_words_is_found(answer, before, after):
    assert sub_em(f"so {before} {' '.join(answer)} {after}", [" ".join(answer)]) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_an_interval_lies_among_the_scores_and_narrows_when_they_repeat(scores):
    low, high = bootstrap_interval(scores, resamples=200)
    assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9
    assert bootstrap_interval(scores, resamples=200) == (low, high)
    narrow = bootstrap_interval(scores * 16, resamples=200)
    assert narrow[1] - narrow[0] <= (high - low) + 1e-9


@pytest.mark.parametrize("seed", [0, 7])
def test_questions_are_drawn_as_pythons_own_generator_draws_them(seed):
    scores = [2.0**-n for n in range(12)]  # whose sums are exact, and hardly ever equal
    draw = random.Random(seed)
    means = sorted(sum(draw.choices(scores, k=12)) / 12 for _ in range(400))
    assert bootstrap_interval(scores, seed=seed, resamples=400) == (means[10], means[389])
    assert means[388] < means[389] < means[390]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_paired_difference_changes_its_sign_with_its_sides(pairs):
    one, other = zip(*pairs, strict=True)
    assert paired_interval(one, other, resamples=50)[0] == pytest.approx(-paired_interval(other, one, resamples=50)[0])
    assert paired_interval(one, one, resamples=50) == (0.0, 0.0, 0.0)


def test_pairing_sees_a_difference_that_two_intervals_do_not():
    other = [float(n % 2) for n in range(100)]
    one = [min(1.0, score + (n % 10 == 0)) for n, score in enumerate(other)]
    mean, low, _ = paired_interval(one, other)
    assert mean == pytest.approx(0.1)
    assert low > 0
    assert bootstrap_interval(one)[0] < bootstrap_interval(other)[1]


def test_paired_scores_must_be_of_the_same_questions():
    with pytest.raises(ValueError, match="shorter"):
        paired_interval([1.0, 0.0], [1.0])


@pytest.mark.parametrize(
    ("said", "answers", "expected"),
    [
        ("red cat", ["red dog"], 0.5),
        ("red red", ["red"], 2 / 3),
        ("red", ["blue", "red"], 1.0),
        ("the", ["a"], 1.0),  # nothing is left of either
        ("", ["red"], 0.0),
        ("red", [], 0.0),
        ("No, they are not.", ["no"], 0.0),
        ("no", ["no way"], 0.0),
        ("no", ["no"], 1.0),
    ],
)
def test_f1_counts_words_and_yes_or_no_only_whole(said, answers, expected):
    assert f1_score(said, answers) == pytest.approx(expected)


def test_where_nothing_was_asked_for_or_measured_there_is_nothing():
    assert recall_at_k(["d1"], [], 5) == 0.0
    assert loose_sub_em("Lisbon", []) == 0.0
    assert sub_em("Lisbon", []) == 0.0
    assert bootstrap_interval([]) == (0.0, 0.0)
    assert paired_interval([], []) == (0.0, 0.0, 0.0)
    assert paired_interval([1.0], [0.0]) == (1.0, 1.0, 1.0)
    assert calibration_error([]) == 0.0
    assert precision_recall([(0.5, False)]) == [(0.5, 0.0, 0.0)]


def test_scores_that_are_held_a_few_at_a_time_have_the_same_interval(monkeypatch):
    scores = [0.25, 1.0, 0.0, 0.5, 0.0]
    whole = bootstrap_interval(scores, resamples=400)
    for held in (1, 12, 5 * 133):
        monkeypatch.setattr(metrics, "_DRAWN_AT_ONCE", held)
        assert bootstrap_interval(scores, resamples=400) == whole


def test_evidence_measures():
    assert recall_at_k(["d3", "d1", "d2"], ["d1", "d2"], 2) == 0.5
    assert precision(["d3", "d1"], ["d1", "d2"]) == 0.5
    assert precision([], ["d1"]) == 0.0
    assert hop_order(["d9", "d1", "d2", "d3"], ["d1", "d2", "d3"]) == 1.0
    assert hop_order(["d3", "d2", "d1"], ["d1", "d2", "d3"]) == 0.0
    assert hop_order(["d3", "d1", "d2"], ["d1", "d2", "d3"]) == pytest.approx(1 / 3)
    assert hop_order(["d1"], ["d1", "d2"]) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_hold_every_block_once_and_the_error_is_in_range(judged):
    assert sum(group.count for group in reliability(judged)) == len(judged)
    assert 0.0 <= calibration_error(judged) <= 1.0
    points = precision_recall(judged)
    assert [recall for _, _, recall in points] == sorted(recall for _, _, recall in points)
    assert len(points) == len({p for p, _ in judged})
    if any(matters for _, matters in judged):
        assert points[-1][2] == 1.0


def test_a_block_is_in_the_bin_of_its_tenth_and_a_sure_one_in_the_last():
    assert [(group.count, group.share) for group in reliability([(1.0, True), (0.95, False), (0.1, True)])] == [
        (1, 1.0),
        (2, 0.5),
    ]
    assert [group.count for group in reliability([(0.85, True), (0.95, False)])] == [1, 1]
    assert calibration_error([(0.25, True)]) == 0.75


def test_calibration_of_a_gate_that_is_right_and_of_one_that_is_sure_of_itself():
    honest = [(0.75, n % 4 != 0) for n in range(100)]
    sure = [(0.95, n % 2 == 0) for n in range(100)]
    assert calibration_error(honest) == pytest.approx(0.0)
    assert calibration_error(sure) == pytest.approx(0.45)


def test_precision_and_recall_at_each_threshold():
    assert precision_recall([(0.9, True), (0.8, False), (0.8, True), (0.1, False)]) == [
        (0.9, 1.0, 0.5), (0.8, pytest.approx(2 / 3), 1.0), (0.1, 0.5, 1.0),
    ]  # fmt: skip


def test_a_question_without_an_answer_is_right_when_refused():
    question = Question("q", "?", ())
    assert set(answer_scores(question, Reply("Not found.", found=False)).values()) == {1.0}
    assert set(answer_scores(question, Reply("Lisbon", found=True)).values()) == {0.0}


def test_a_refusal_is_wrong_where_there_is_an_answer():
    assert answer_scores(Question("q", "?", ("not found",)), Reply("Not found.", found=False))["em"] == 0.0


def test_where_all_answers_are_wanted_the_share_counts():
    question = Question("q", "?", ("11", "22", "33", "44"), wanted="all")
    scores = answer_scores(question, Reply("They are 22, 11 and 55.", found=True))
    assert (scores["sub_em"], scores["em"]) == (0.5, 0.0)
    assert answer_scores(question, Reply("44 33 22 11", found=True))["em"] == 1.0


def test_a_system_that_opened_nothing_has_recall_0_and_one_that_names_nothing_has_none():
    question = Question("q", "?", ("x",), gold=("d1",))
    assert evidence_scores(question, Reply("", found=False, evidence=()))["recall@5"] == 0.0
    assert evidence_scores(question, Reply("", found=False)) == {}


def test_recall_counts_what_was_ranked_and_precision_what_was_read():
    question = Question("q", "?", ("x",), gold=("d1", "d2"))
    scores = evidence_scores(question, Reply("", found=False, evidence=("d3", "d1"), ranked=("d3", "d1", "d4", "d2")))
    assert (scores["recall@2"], scores["recall@5"], scores["recall"], scores["precision"]) == (0.5, 1.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("cited", "expected"),
    [
        (("The rent is 940 pounds a month.",), 1.0),
        (("940 pounds",), 1.0),
        (("Dogs are not allowed.", "The rent is 940 pounds a month, paid in advance."), 1.0),
        (("The deposit is 1,880 pounds.",), 0.0),
        ((), 0.0),
    ],
)
def test_a_span_is_cited_by_a_passage_that_holds_it_or_lies_in_it(cited, expected):
    question = Question("q", "How high is the rent?", ("940 pounds",), ("d1",), span="The rent is 940 pounds a month")
    reply = Reply("940 pounds", found=True, evidence=("d1",), ranked=("d1",), cited=cited)
    assert evidence_scores(question, reply)["cited"] == expected
    assert "cited" not in evidence_scores(question, replace(reply, found=False))
    assert "cited" not in evidence_scores(question, replace(reply, cited=None))
    assert "cited" not in evidence_scores(replace(question, span=""), reply)
