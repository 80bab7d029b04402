"""Contract: a reward is a pure function of text, says why, and never runs, raises or waits on what a model wrote."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmr1.config import RewardConfig
from lmmr1.rewards import accuracy, extract_answer, has_format, score
from lmmr1.types import Rollout, Sample

GOOD = "<think>1+1=2</think><answer>2</answer>"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (GOOD, True),
        (f"  {GOOD}\n", True),
        ("<think></think><answer></answer>", True),  # empty blocks pass, as released
        ("<think>a\nb</think><answer>2</answer>", True),
        ("2", False),
        ("<think>x</think> <answer>2</answer>", False),  # nothing may stand between the blocks
        ("<think>x</think><answer>2</answer>.", False),
        ("x<think>x</think><answer>2</answer>", False),
        ("<think><think>x</think><answer>2</answer>", False),
        ("<think>x</think><answer>1<answer>2</answer>", False),
        ("<answer>2</answer><think>x</think>", False),
        ("<think>x<answer>2</answer>", False),
        ("", False),
    ],
)
def test_format(response, expected):
    assert has_format(response) is expected


@pytest.mark.parametrize(
    ("response", "gold", "expected", "note"),
    [
        (GOOD, "2", 1, "equal"),
        ("<think>2</think><answer>3</answer>", "2", 0, "different"),
        ("<think>3</think><answer>2</answer>", "2", 1, "equal"),
        ("<answer>1</answer><answer>2</answer>", "2", 1, "equal"),
        ("2", "2", 1, "equal"),
        ("2.0", "2", 1, "equal"),
        ("-2", "2", 0, "different"),
        ("<think></think><answer></answer>", "2", 0, "no_answer"),
        ("<think>5", "2", 0, "unparsed"),
        ("so it is \\boxed{\\frac{1}{2}}", "0.5", 1, "equal"),
        ("<answer>$\\frac{2}{4}$</answer>", "\\frac{1}{2}", 1, "equal"),
        ("<answer>red</answer>", "red", 1, "equal"),
        ("<answer>green</answer>", "red", 0, "unparsed"),
        ("", "2", 0, "no_answer"),
    ],
)
def test_accuracy(response, gold, expected, note):
    assert accuracy(response, gold) == (expected, note)


def test_an_unparsable_gold_is_never_rewarded():
    """The released verifier pays 1.0 for any answer here."""
    for gold in ("", "$$", "   "):
        assert accuracy("<answer>7</answer>", gold)[0] == 0


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}", "2**9**9**9", "100000000!", "1" * 6000, "(" * 3000, "{" * 3000, "\\frac{1}" * 300, "x" * 1_000_000,
        "\x00\ud800", '__import__("os").system("touch canary")',
    ],
)  # fmt: skip
def test_hostile_answers_are_wrong_and_quick(answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert accuracy(f"<answer>{answer}</answer>", "2")[0] == 0
    assert not (tmp_path / "canary").exists()


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_any_text_gives_a_number_and_a_reason(text):
    value, note = accuracy(text, "2")
    assert value in (0.0, 1.0) and note
    assert has_format(text) in (True, False)
    assert isinstance(extract_answer(text), str)


def group(texts, sample):
    return tuple(Rollout(sample.id, (1,), (0.0,), t, "stop") for t in texts)


def test_totals_use_the_weights_and_keep_the_parts():
    sample = Sample("a", [], (), "2")
    texts = [GOOD, "2", "<think></think><answer>3</answer>", "no"]
    cfg = RewardConfig(accuracy_weight=2.0, format_weight=0.25)
    (scored,) = score((sample,), [group(texts, sample)], cfg, (0, 1))
    assert [r.total for r in scored.rewards] == [2.25, 2.0, 0.25, 0.0]
    assert [(r.accuracy, r.format) for r in scored.rewards] == [(1, 1), (1, 0), (0, 1), (0, 0)]


def test_the_control_pays_a_fair_coin_whatever_the_answer():
    sample = Sample("a", [], (), "2")
    rng = random.Random(0)
    texts = [GOOD if rng.random() < 0.5 else "no" for _ in range(2000)]
    (scored,) = score((sample,), [group(texts, sample)], RewardConfig(kind="random"), (0, 1))
    paid = [r.total for r in scored.rewards]
    assert set(paid) == {0.0, 1.0} and 900 < sum(paid) < 1100
    right = [p for p, r in zip(paid, scored.rewards, strict=True) if r.accuracy]
    assert 0.44 < sum(right) / len(right) < 0.56
    (again,) = score((sample,), [group(texts, sample)], RewardConfig(kind="random"), (0, 1))
    assert [r.total for r in again.rewards] == paid
