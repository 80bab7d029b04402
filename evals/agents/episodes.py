"""What playing Sokoban and playing football have in common: how answers are drawn, and records from played episodes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

from pydantic import Field

from evals.generation import MAX_PROMPT_TOKENS
from evals.records import EvalRecord, Protocol
from evals.samples import GameRow
from lmmr1.config import SamplingConfig, Settings


class PlayConfig(Settings):
    """How often and how a player answers; the defaults are MageBench's."""

    repeats: int = Field(3, gt=0)
    """Episodes for each level."""
    temperature: float = Field(0.1, ge=0)
    max_new_tokens: int = Field(1000, gt=0)
    seed: int = 0

    @property
    def sampling(self) -> SamplingConfig:
        """The same for the engine."""
        return SamplingConfig(
            temperature=self.temperature, max_completion_length=self.max_new_tokens, max_prompt_length=MAX_PROMPT_TOKENS
        )


def to_records(
    rows: Sequence[GameRow],
    *,
    benchmark: str,
    metric: Literal["score", "accuracy"],
    checkpoint: str,
    protocol: Protocol,
    samples: str,
) -> list[EvalRecord]:
    """The record of all rows, then one per category. `score` is divided by 100; `accuracy` is the share solved or won.

    n counts levels: the repeats of a level are not independent, so the standard error is that of the levels' means.
    """
    subsets = {"all": list(rows)}
    for category in sorted({row.category for row in rows}):
        subsets[category] = [row for row in rows if row.category == category]
    records = []
    for subset, members in subsets.items():
        value, stderr, levels = level_mean(members, metric)
        unit = 100 if metric == "score" else 1
        values = (value / unit, None if stderr is None else stderr / unit, levels)
        records.append(EvalRecord(benchmark, subset, metric, *values, checkpoint, protocol, samples))
    return records


def level_mean(rows: Sequence[GameRow], metric: str) -> tuple[float, float | None, int]:
    """Mean of `metric`, its standard error over levels (None for a single level), and the number of levels.

    Every level has as many repeats as every other, so the mean over levels is the mean over rows.
    """
    levels: dict[int | str, list[float]] = {}
    for row in rows:
        levels.setdefault(row.doc_id, []).append(row.value(metric))
    means = [fmean(values) for values in levels.values()]
    stderr = stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return fmean(means), stderr, len(means)
