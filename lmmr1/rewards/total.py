"""From completions to rewards: the parts of each, weighted, and a stop where the verifier itself fails too often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from lmmr1.config import RewardConfig, SamplingConfig
from lmmr1.rewards.judge import Question, Rule, Verdict
from lmmr1.rewards.pool import VerifierPool
from lmmr1.rewards.response import has_strict_format
from lmmr1.rewards.sokoban import sokoban_reward
from lmmr1.rewards.terms import repetition_penalty, soft_overlong_punishment
from lmmr1.sokoban import Level
from lmmr1.types import Reward, Rollout, Sample, ScoredGroup, TrainingError


def verifier_pool(cfg: RewardConfig) -> VerifierPool:
    """What judges answers, with this stage's bounds."""
    rule: Rule = "released" if cfg.compat == "released" else "lmmr1"
    return VerifierPool(cfg.verifier_workers, cfg.verifier_deadline, cfg.verifier_memory_mb, rule)


def score(
    samples: tuple[Sample, ...],
    rollouts: list[tuple[Rollout, ...]],
    cfg: RewardConfig,
    sampling: SamplingConfig,
    verifier: VerifierPool,
    seed: tuple[int, ...],
) -> list[ScoredGroup]:
    """Reward every rollout of every prompt: P samples and P x G rollouts in, P scored groups out.

    Raises TrainingError where the verifier failed on more than `cfg.max_verifier_failures` of the completions.
    """
    if cfg.kind == "sokoban":
        return [play_all(sample, group, cfg) for sample, group in zip(samples, rollouts, strict=True)]
    rng = random.Random(str(seed))
    questions = [Question(s.answer, r.text) for s, group in zip(samples, rollouts, strict=True) for r in group]
    verdicts = verifier.judge(questions)
    check_failures(verdicts, cfg.max_verifier_failures)
    one_by_one = iter(verdicts)
    return [
        ScoredGroup(sample, group, tuple(reward(r, next(one_by_one), cfg, sampling, rng) for r in group))
        for sample, group in zip(samples, rollouts, strict=True)
    ]


def play_all(sample: Sample, rollouts: tuple[Rollout, ...], cfg: RewardConfig) -> ScoredGroup:
    """The G action lists of one Sokoban level, which is the sample's answer, played."""
    level = Level.parse(sample.answer)
    rewards = tuple(sokoban_reward(r.text, level, cfg.sokoban).as_reward() for r in rollouts)
    return ScoredGroup(sample, rollouts, rewards)


def reward(
    rollout: Rollout, verdict: Verdict, cfg: RewardConfig, sampling: SamplingConfig, rng: random.Random
) -> Reward:
    """Weighted sum of the parts (paper section 3.2: accuracy + 0.5 format); `random` pays a fair coin instead."""
    tidy = verdict.format if cfg.format_rule == "released" else float(has_strict_format(rollout.text))
    tokens = rollout.token_ids
    length = soft_overlong_punishment(len(tokens), sampling.max_completion_length, cfg.soft_punish_cache)
    repetition = repetition_penalty(tokens, cfg.repetition_ngram_size) if cfg.repetition_weight else 0.0
    total = cfg.accuracy_weight * verdict.accuracy + cfg.format_weight * tidy
    total += cfg.length_weight * length + cfg.repetition_weight * repetition
    if cfg.kind == "random":
        total = float(rng.random() < 0.5)
    return Reward(total, verdict.accuracy, tidy, verdict.note, length, repetition, verdict.seconds)


def check_failures(verdicts: Sequence[Verdict], ceiling: float) -> None:
    """Raise TrainingError where more than a share `ceiling` of the verdicts are failures of the verifier."""
    failures = Counter(v.note.partition(":")[0] for v in verdicts if v.failed)
    if sum(failures.values()) > ceiling * len(verdicts):
        counts = ", ".join(f"{n} x {note}" for note, n in sorted(failures.items()))
        raise TrainingError(
            f"the verifier failed on {sum(failures.values())} of {len(verdicts)} completions ({counts}), more than "
            f"reward.max_verifier_failures {ceiling}: their rewards would be noise"
        )
