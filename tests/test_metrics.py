"""Contract: a step's numbers are those of all its completions, counted by hand; a row shows what one completion earned."""

import pytest

from lmmr1.metrics import completion_rows, prompt_text, step_metrics, timings
from lmmr1.types import Reward, Rollout, Sample, ScoredGroup


def group(name, *pieces):
    """A group of (tokens, finish, reward)."""
    content = [{"type": "image"}, {"type": "text", "text": f"count {name}"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}]
    rollouts = tuple(Rollout(name, (1,) * n, (0.0,) * n, f"{name}{n}", finish) for n, finish, _ in pieces)
    return ScoredGroup(Sample(name, messages, (), "2"), rollouts, tuple(reward for *_, reward in pieces))


RIGHT, WRONG = Reward(1.5, 1.0, 1.0, "equal", seconds=0.5), Reward(0.25, 0.0, 0.5, "different", seconds=0.25)
GROUPS = [
    group("a", (2, "stop", RIGHT), (8, "length", WRONG), (3, "stop", WRONG)),
    group("b", (4, "stop", WRONG), (8, "length", WRONG), (8, "stop", WRONG)),
]


def test_a_steps_numbers_are_those_of_all_completions():
    found = step_metrics(GROUPS)
    spread = (((1.5 - 2 / 3) ** 2 + 2 * (0.25 - 2 / 3) ** 2) / 2) ** 0.5  # of the first group; the second's is 0
    expected = {
        "reward": (1.5 + 5 * 0.25) / 6, "reward_std": spread / 2, "frac_reward_zero_std": 0.5,
        "rewards/accuracy/mean": 1 / 6, "rewards/format/mean": (1 + 5 * 0.5) / 6,
        "completions/mean_length": 33 / 6, "completions/max_length": 8, "completions/min_length": 2,
        "completions/clipped_ratio": 1 / 3, "completions/mean_terminated_length": 17 / 4,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_the_times_of_verdicts_are_their_quantiles():
    row = timings(3, 2.0, [group("a", *((1, "stop", Reward(0, 0, 0, seconds=i / 100)) for i in reversed(range(101))))])
    assert row == {
        "step": 3, "seconds": 2.0, "rewards/seconds_p50": 0.5, "rewards/seconds_p95": 0.95, "rewards/seconds_max": 1.0
    }  # fmt: skip


def test_a_row_shows_one_completion_with_what_it_earned():
    rows = list(completion_rows(3, GROUPS, [0.1, -0.2, -0.3, 0.4, 0.5, 0.6]))
    assert [row["completion"] for row in rows] == ["a2", "a8"]
    assert rows[1] == {
        "step": 3, "sample_id": "a", "prompt": "be brief [image] count a", "completion": "a8", "answer": "2", "reward": 0.25,
        "accuracy": 0.0, "format": 0.5, "note": "different", "advantage": -0.2,
    }  # fmt: skip
    assert prompt_text(GROUPS[1]) == "be brief [image] count b"
