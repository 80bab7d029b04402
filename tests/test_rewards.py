"""Contract: a reward is made of parts, says why, and the shape of a response is read from text alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmmr1.config import RewardConfig, SamplingConfig
from lmmr1.metrics import timings, verifier_counts
from lmmr1.rewards import (
    Question,
    Verdict,
    VerifierPool,
    extract_answer,
    final_answer,
    has_format,
    has_strict_format,
    score,
    verifier_pool,
)
from lmmr1.rewards.options import gold_letter, option_letter
from lmmr1.rewards.terms import repetition_penalty, soft_overlong_punishment
from lmmr1.rewards.total import check_failures
from lmmr1.types import Reward, Rollout, Sample, TrainingError

GOOD = "<think>1+1=2</think><answer>2</answer>"
SAMPLING = SamplingConfig(max_completion_length=10)


@pytest.fixture(scope="module")
def verifier():
    with VerifierPool(1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("response", "released", "strict"),
    [
        (GOOD, True, True),
        (f"  {GOOD}\n", True, True),
        ("<think></think><answer></answer>", True, False),  # empty blocks pass, as released
        ("<think>a\nb</think><answer>2</answer>", True, True),
        ("<think>a</think></think><answer>2</answer>", False, False),
        ("2", False, False),
        ("<think>x</think> <answer>2</answer>", False, False),  # nothing may stand between the blocks
        ("<think>x</think><answer>2</answer>.", False, False),
        ("x<think>x</think><answer>2</answer>", False, False),
        ("<think><think>x</think><answer>2</answer>", False, False),
        ("<think>x</think><answer>1<answer>2</answer>", False, False),
        ("<answer>2</answer><think>x</think>", False, False),
        ("<think>x<answer>2</answer>", False, False),
        ("", False, False),
    ],
)
def test_format(response, released, strict):
    assert (has_format(response), has_strict_format(response)) == (released, strict)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "2", " "]), max_size=8).map("".join))
def test_the_strict_format_is_a_part_of_the_released_one(text):
    assert has_format(text) or not has_strict_format(text)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (GOOD, "2"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<think>it is 5", ""),  # never closed: no answer was given
        ("<think>it is 5</think> 6", "6"),
        ("7</answer>", "7"),
        ("\\boxed{1} <answer> 2 </answer>", "2"),
    ],
)
def test_the_last_answer_block_is_judged_and_a_think_block_never(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{1} no \\boxed{\\frac{1}{2}}. Done!", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{2", "1"),  # an open box is none
        ("\\boxed{3}, \\boxed{5}", "3 , 5"),
        ("\\boxed{}", ""),
        ("We get $x=1$. So the total is $5$.", "5"),
        ("The answer is 7. I checked it.", "7"),
        ("x + 1", "x + 1"),
        ("", ""),
    ],
)
def test_the_final_answer_of_a_text(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("$\\boxed{B}$", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("B. 8/11", "B"),
        ("8/11", "B"),
        ("The correct answer is (B) 8/11", "B"),
        ("Answer: B", "B"),
        ("Maybe the answer is A, no, the answer is C", "C"),
        ("F", ""),
        ("A cat", ""),
        ("", ""),
        ("I. do not know", ""),
        ("25", ""),
    ],
)
def test_option_letters_are_found(answer, letter):
    assert option_letter(answer, ["3/11", "8/11", "6/11", "3/5"]) == letter


def test_where_options_are_letters_themselves_the_letter_is_the_answer():
    assert option_letter("A", ["B", "A"]) == "A"


def test_a_gold_is_an_option_only_as_a_capital_letter_alone():
    assert [gold_letter(g) for g in ("B", "$(B)$", "\\text{C}", "e", "i", "AB", "K", "2")] == ["B", "B", "C", *[""] * 5]


def group(texts, sample):
    return tuple(Rollout(sample.id, (1, 2, 3), (0.0,) * 3, t, "stop") for t in texts)


def test_totals_use_the_weights_and_keep_the_parts(verifier):
    sample = Sample("a", [], (), "2")
    texts = [GOOD, "2", "<think></think><answer>3</answer>", "no"]
    cfg = RewardConfig(accuracy_weight=2.0, format_weight=0.25)
    (scored,) = score((sample,), [group(texts, sample)], cfg, SAMPLING, verifier, (0, 1))
    assert [r.total for r in scored.rewards] == [2.25, 2.0, 0.25, 0.0]
    assert [(r.accuracy, r.format) for r in scored.rewards] == [(1, 1), (1, 0), (0, 1), (0, 0)]
    assert [r.note for r in scored.rewards] == ["equal", "equal", "different", "different"]
    strict = cfg.model_copy(update={"format_rule": "strict"})
    (scored,) = score((sample,), [group(texts, sample)], strict, SAMPLING, verifier, (0, 1))
    assert [r.total for r in scored.rewards] == [2.25, 2.0, 0.0, 0.0]


def test_length_and_repetition_cost_what_is_configured(verifier):
    sample = Sample("a", [], (), "2")
    long = Rollout("a", (7,) * 9, (0.0,) * 9, "2", "stop")
    cfg = RewardConfig(length_weight=0.5, soft_punish_cache=4, repetition_weight=0.2, repetition_ngram_size=2)
    (scored,) = score((sample,), [(long, *group(["2"], sample))], cfg, SAMPLING, verifier, (0, 1))
    # 9 tokens of 10, the last 4 are punished: 3/4; 8 bigrams, 1 of them different: 7/8 repeated
    assert scored.rewards[0].total == pytest.approx(1.0 - 0.5 * 3 / 4 - 0.2 * 7 / 8)
    assert scored.rewards[1].total == 1.0


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5), st.integers(1, 20))
def test_the_terms_equal_those_of_trl(ids, ngram_size, cache):
    from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

    assert repetition_penalty(ids, ngram_size) == pytest.approx(get_repetition_penalty_reward(ngram_size)([ids])[0])
    theirs = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=cache)([ids])[0]
    assert soft_overlong_punishment(min(len(ids), 20), 20, cache) == pytest.approx(theirs if len(ids) <= 20 else -1)


def test_a_length_beyond_the_limit_costs_one():
    assert [soft_overlong_punishment(n, 20, 4) for n in (16, 18, 20, 25)] == [0.0, -0.5, -1.0, -1.0]


def test_compat_decides_who_judges():
    """The authors pay any answer to a gold that does not parse; ours never does."""
    for compat, paid in (("released", 1.0), ("none", 0.0)):
        cfg = RewardConfig(compat=compat, verifier_workers=1, verifier_deadline=7.0, verifier_memory_mb=900)
        with verifier_pool(cfg) as pool:
            assert [v.accuracy for v in pool.judge([Question("", "\\boxed{7}")])] == [paid]
            assert (pool.size, pool.deadline, pool.memory_mb) == (1, 7.0, 900)


def test_the_controls_coins_differ_from_step_to_step(verifier):
    sample = Sample("a", [], (), "2")
    paid = [
        tuple(
            r.total for r in score((sample,), [group(["no"] * 32, sample)], coin, SAMPLING, verifier, seed)[0].rewards
        )
        for coin in (RewardConfig(kind="random"),)
        for seed in ((0, 1), (0, 2), (1, 1))
    ]
    assert len(set(paid)) == 3


def test_the_control_pays_a_fair_coin_whatever_the_answer(verifier):
    sample = Sample("a", [], (), "2")
    rng = random.Random(0)
    texts = [GOOD if rng.random() < 0.5 else "no" for _ in range(2000)]
    coin = RewardConfig(kind="random")
    (scored,) = score((sample,), [group(texts, sample)], coin, SAMPLING, verifier, (0, 1))
    paid = [r.total for r in scored.rewards]
    assert set(paid) == {0.0, 1.0} and 900 < sum(paid) < 1100
    right = [p for p, r in zip(paid, scored.rewards, strict=True) if r.accuracy]
    assert 0.44 < sum(right) / len(right) < 0.56
    (again,) = score((sample,), [group(texts, sample)], coin, SAMPLING, verifier, (0, 1))
    assert [r.total for r in again.rewards] == paid


def test_training_stops_where_the_verifier_fails_too_often():
    fine, late = Verdict(1.0, 0.0, "equal", "2"), Verdict(0.0, 0.0, "timeout", "9")
    check_failures([fine] * 9 + [late], 0.1)
    check_failures([Verdict(0.0, 0.0, "refused: power", "9")] * 10, 0.0)  # a refusal is a verdict
    with pytest.raises(
        TrainingError, match=r"failed on 2 of 10 completions \(2 x timeout\).*max_verifier_failures 0.1"
    ):
        check_failures([fine] * 8 + [late] * 2, 0.1)


def test_the_step_log_counts_what_was_not_judged_and_the_timings_say_how_long_it_took(verifier):
    notes = ["equal", "timeout", "memory", "error: TypeError", "refused: length", "unparsed", "gold_unparsable"]
    counts = verifier_counts([Reward(0.0, 0.0, 0.0, note) for note in notes])
    assert counts == {
        "rewards/timeouts": 2, "rewards/errors": 1, "rewards/refused": 1, "rewards/unparsed": 1,
        "rewards/gold_unparsable": 1,
    }  # fmt: skip
    sample = Sample("a", [], (), "2")
    groups = score((sample,), [group([GOOD, "\\sqrt{4}"], sample)], RewardConfig(), SAMPLING, verifier, (0,))
    row = timings(3, 1.0, groups)
    assert 0 < row["rewards/seconds_p50"] <= row["rewards/seconds_p95"] <= row["rewards/seconds_max"] < 5


def test_sokoban_answers_are_played_on_the_level_that_is_the_gold(verifier):
    sample = Sample("a", [], (), "#####\n#@$.#\n#####")
    texts = ["<think>push</think><answer>Right</answer>", "<think></think><answer>Left</answer>", "Right"]
    (scored,) = score((sample,), [group(texts, sample)], RewardConfig(kind="sokoban"), SAMPLING, verifier, (0, 1))
    # -0.1 for the step, +1 for the box on its target, +10 for the level, 0.5 for the format
    assert [r.total for r in scored.rewards] == pytest.approx([11.4, 0.5, 0.0])
    assert [r.accuracy for r in scored.rewards] == [1.0, 0.0, 0.0]
