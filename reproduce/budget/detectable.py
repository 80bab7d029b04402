"""What the planned evaluation can show: the smallest true difference between two arms that it would find."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evals.registry import Benchmark
from reports.power import paired_detectable, paired_items
from reports.rules import Rules
from reports.unpaired import effective_n
from reproduce.published import registry


@dataclass(frozen=True, slots=True)
class Detectable:
    """Smallest differences, in points, that a paired test at 5 % finds with the rules' power; nan: none."""

    items: int
    effective_items: float
    """Items that independent sampling would need (MathVerse asks each problem in five versions)."""
    discordance: float
    """Assumed share of items on which two arms differ (config/verdicts.yaml)."""
    power: float
    points_one_seed: float
    """One run of each arm: what a reader can rely on."""
    points_all_seeds: float
    """Mean of all seeds, if an item's answers were independent between seeds: at best."""
    items_for_margin: int
    """Items with which a difference as large as the margin would be found, one run of each arm."""


def detectable(benchmark: Benchmark, items: int, seeds: int, used: Rules) -> Detectable:
    """For one benchmark of `items` problems and `seeds` runs of each arm."""
    n = effective_n(items, _versions(benchmark), used.icc)
    one, every = (100 * paired_detectable(used.discordance, n * k, used.power) for k in (1, seeds))
    needed = paired_items(used.margin_of(benchmark.name), used.discordance, used.power)
    return Detectable(items, n, used.discordance, used.power, one, every, math.ceil(needed * items / n))


def _versions(benchmark: Benchmark) -> int:
    """Items that share one problem, as the registry of printed numbers has it."""
    columns = (c for table in registry().tables.values() for c in table.columns.values())
    return next((c.per_problem for c in columns if c.benchmark == benchmark.name and not c.subset), 1)
