"""What a rollout batch looked like, under TRL's metric names (see the glossary in docs/metrics.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lmmr1.advantages import zero_variance
from lmmr1.batch import rewards_of
from lmmr1.types import Reward, ScoredGroup

LOGGED_PROMPTS, LOGGED_SAMPLES = 1, 2
"""Completions kept per step for people to read: the first prompts and their first samples."""


def step_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Rewards, lengths (tokens) and their spread over all completions that were drawn for one step."""
    rewards, parts = rewards_of(groups), [r for g in groups for r in g.rewards]
    rollouts = [r for g in groups for r in g.rollouts]
    lengths = [len(r.token_ids) for r in rollouts]
    ended = [len(r.token_ids) for r in rollouts if r.finish == "stop"]
    return {
        "reward": rewards.mean().item(),
        "reward_std": rewards.std(1, correction=min(1, rewards.size(1) - 1)).mean().item(),
        "frac_reward_zero_std": zero_variance(rewards).float().mean().item(),
        "rewards/accuracy/mean": sum(p.accuracy for p in parts) / len(parts),
        "rewards/format/mean": sum(p.format for p in parts) / len(parts),
        **verifier_counts(parts),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/max_length": max(lengths),
        "completions/min_length": min(lengths),
        "completions/clipped_ratio": sum(r.finish == "length" for r in rollouts) / len(rollouts),
        "completions/mean_terminated_length": sum(ended) / max(len(ended), 1),
    }


def verifier_counts(rewards: Sequence[Reward]) -> dict[str, float]:
    """Completions that the verifier did not judge by mathematics, by reason. Numbers of completions."""
    notes = Counter(r.note.partition(":")[0] for r in rewards)
    return {
        "rewards/timeouts": notes["timeout"] + notes["memory"] + notes["crashed"],
        "rewards/errors": notes["error"],
        "rewards/refused": notes["refused"],
        "rewards/unparsed": notes["unparsed"],
        "rewards/gold_unparsable": notes["gold_unparsable"],
    }


def timings(step: int, seconds: float, groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Wall times of one step, in seconds: in all, and of its verdicts. Kept apart from what must repeat exactly."""
    verdicts = sorted(r.seconds for g in groups for r in g.rewards)
    p50, p95 = (verdicts[int(q * (len(verdicts) - 1))] for q in (0.5, 0.95))
    rewards = {"rewards/seconds_p50": p50, "rewards/seconds_p95": p95, "rewards/seconds_max": verdicts[-1]}
    return {"step": step, "seconds": round(seconds, 4), **{k: round(v, 6) for k, v in rewards.items()}}


def completion_rows(
    step: int, groups: Sequence[ScoredGroup], advantages_N: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """A few completions with their rewards and (first-token) advantages, as JSON-ready rows."""
    for p, group in enumerate(groups[:LOGGED_PROMPTS]):
        for g in range(min(LOGGED_SAMPLES, len(group.rollouts))):
            reward, rollout = group.rewards[g], group.rollouts[g]
            yield {
                "step": step,
                "sample_id": group.sample.id,
                "prompt": prompt_text(group),
                "completion": rollout.text,
                "answer": group.sample.answer,
                "reward": reward.total,
                "accuracy": reward.accuracy,
                "format": reward.format,
                "note": reward.note,
                "advantage": advantages_N[p * len(group.rollouts) + g],
            }


def prompt_text(group: ScoredGroup) -> str:
    """The words of the user's turns, images shown as [image]."""
    parts = []
    for message in group.sample.messages:
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts += [item.get("text", "") if item["type"] == "text" else "[image]" for item in items]
    return " ".join(parts)
