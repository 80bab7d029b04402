"""Rule-based rewards: format and accuracy (paper section 3.2). Pure functions: hostile text in, number and note out.

What is not standard: an answer is judged by what stands in the last answer block, if there is one, not by the whole
response; a gold answer that cannot be parsed is never rewarded (the released verifier pays 1.0 for it).
"""

from __future__ import annotations

import random
import re
import threading

from math_verify import parse, verify
from math_verify.errors import TimeoutException

from lmmr1.config import RewardConfig
from lmmr1.types import Reward, Rollout, Sample, ScoredGroup

MAX_ANSWER_CHARS = 2000
"""Longer answers are wrong without being parsed: no gold is near it, and sympy's time is not bounded."""

_FORMAT = re.compile(r"\A<think>(?:(?!<think>).)*</think><answer>(?:(?!<answer>).)*</answer>\Z", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d{1,30}|\d{1,15}\.\d{1,15})")
_MONSTER = re.compile(r"\d{40}|(?:\^.*){4}|\*\*|!|(?:[({\[]\s*){40}", re.DOTALL)


def has_format(response: str) -> bool:
    """True where the stripped response is one think block directly followed by one answer block (as released)."""
    text = response.strip()
    single = text.count("<think>") == 1 and text.count("<answer>") == 1
    return single and _FORMAT.match(text) is not None


def extract_answer(response: str) -> str:
    """The text that is judged: the inside of the last answer block, or the whole response without one."""
    _, opened, tail = response.rpartition("<answer>")
    if not opened:
        return response.strip()
    return tail.partition("</answer>")[0].strip()


def accuracy(response: str, gold: str) -> tuple[float, str]:
    """1.0 where the answer equals the gold, else 0.0, and a note. Never raises on any text.

    Notes: `equal`, `different`, `no_answer`, `unparsed`, `refused` (too long or too deep to parse), `gold_unparsable`,
    `timeout`, `parser_error:...`.
    """
    answer, gold = extract_answer(response), gold.strip()
    if not answer:
        return 0.0, "no_answer"
    if answer == gold:
        return 1.0, "equal"
    if _NUMBER.fullmatch(answer) and _NUMBER.fullmatch(gold):
        return (1.0, "equal") if float(answer) == float(gold) else (0.0, "different")
    if len(answer) > MAX_ANSWER_CHARS or _MONSTER.search(answer):
        return 0.0, "refused"
    return _math_equal(answer, gold)


def _math_equal(answer: str, gold: str) -> tuple[float, str]:
    """math-verify on both sides. Its time limits need signals, so off the main thread they are switched off."""
    seconds = 3 if threading.current_thread() is threading.main_thread() else None
    try:
        wanted = parse(gold if "$" in gold or "boxed" in gold else f"${gold}$", parsing_timeout=seconds)
        if not wanted:
            return 0.0, "gold_unparsable"
        found = parse(answer, parsing_timeout=seconds)
        if not found:
            return 0.0, "unparsed"
        return (1.0, "equal") if verify(wanted, found, timeout_seconds=seconds) else (0.0, "different")
    except TimeoutException:
        return 0.0, "timeout"
    except (ValueError, RecursionError, OverflowError, TypeError, AttributeError, MemoryError) as e:
        return 0.0, f"parser_error:{type(e).__name__}"


def reward(rollout: Rollout, sample: Sample, cfg: RewardConfig, rng: random.Random) -> Reward:
    """Weighted sum of accuracy and format; with kind `random` a fair coin, the parts still being measured."""
    correct, note = accuracy(rollout.text, sample.answer)
    tidy = float(has_format(rollout.text))
    total = (
        float(rng.random() < 0.5) if cfg.kind == "random" else cfg.accuracy_weight * correct + cfg.format_weight * tidy
    )
    return Reward(total, correct, tidy, note)


def score(
    samples: tuple[Sample, ...], rollouts: list[tuple[Rollout, ...]], cfg: RewardConfig, seed: tuple[int, ...]
) -> list[ScoredGroup]:
    """Reward every rollout of every prompt: P samples and P x G rollouts in, P scored groups out."""
    rng = random.Random(str(seed))
    return [
        ScoredGroup(sample, group, tuple(reward(r, sample, cfg, rng) for r in group))
        for sample, group in zip(samples, rollouts, strict=True)
    ]
