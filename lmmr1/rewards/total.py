"""From completions to rewards: the parts of each, weighted, and a stop where the verifier itself fails too often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from lmmr1.config import RewardConfig, SamplingConfig
from lmmr1.processes import ALONE, Processes
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
    processes: Processes = ALONE,
) -> list[ScoredGroup]:
    """Reward every rollout of every prompt: P samples and P x G rollouts in, P scored groups out.

    Where several processes share a batch, each gives its prompts and gets the groups of all.

    Raises TrainingError where the verifier failed on more than `cfg.max_verifier_failures` of the completions.
    """
    if cfg.kind == "sokoban":
        return processes.gather([play_all(s, group, cfg) for s, group in zip(samples, rollouts, strict=True)])
    questions = [Question(s.answer, r.text) for s, group in zip(samples, rollouts, strict=True) for r in group]
    verdicts = verifier.judge(questions)
    check_failures([v for part in processes.collect(verdicts) for v in part], cfg.max_verifier_failures)
    one_by_one, coins = iter(verdicts), iter(toss(rollouts, seed, processes) if cfg.kind == "random" else ())
    groups = [
        ScoredGroup(s, group, tuple(reward(r, next(one_by_one), cfg, sampling, next(coins, None)) for r in group))
        for s, group in zip(samples, rollouts, strict=True)
    ]
    return processes.gather(groups)


def toss(rollouts: Sequence[tuple[Rollout, ...]], seed: tuple[int, ...], processes: Processes) -> list[float]:
    """A fair coin, 0 or 1, for every rollout of this process: the same as if one process tossed for all."""
    rng, counts = random.Random(str(seed)), processes.gather([len(group) for group in rollouts])
    tosses = [[float(rng.random() < 0.5) for _ in range(count)] for count in counts]
    return [coin for group in processes.share(tosses) for coin in group]


def play_all(sample: Sample, rollouts: tuple[Rollout, ...], cfg: RewardConfig) -> ScoredGroup:
    """The G action lists of one Sokoban level, which is the sample's answer, played."""
    level = Level.parse(sample.answer)
    rewards = tuple(sokoban_reward(r.text, level, cfg.sokoban).as_reward() for r in rollouts)
    return ScoredGroup(sample, rollouts, rewards)


def reward(
    rollout: Rollout, verdict: Verdict, cfg: RewardConfig, sampling: SamplingConfig, coin: float | None = None
) -> Reward:
    """Weighted sum of the parts (paper section 3.2: accuracy + 0.5 format); a `coin` is paid instead."""
    tidy = verdict.format if cfg.format_rule == "released" else float(has_strict_format(rollout.text))
    tokens = rollout.token_ids
    length = soft_overlong_punishment(len(tokens), sampling.max_completion_length, cfg.soft_punish_cache)
    repetition = repetition_penalty(tokens, cfg.repetition_ngram_size) if cfg.repetition_weight else 0.0
    total = cfg.accuracy_weight * verdict.accuracy + cfg.format_weight * tidy
    total += cfg.length_weight * length + cfg.repetition_weight * repetition
    total = total if coin is None else coin
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
