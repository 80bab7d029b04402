"""From scored rows to records: over all problems, per category and subset, and means of several subsets."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evals.records import EvalRecord, Protocol
from evals.registry import Benchmark
from evals.samples import SampleRow

RESERVED = {"", "all", "macro", "micro"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value in [0, 1], its standard error and the number of rows behind it."""

    value: float
    stderr: float | None
    """None where nothing is known of the spread: one problem, or an average with such a part."""
    n: int


def mean(rows: Sequence[SampleRow], metric: str) -> Estimate:
    """Mean over rows. Rows of one `cluster` (versions of one problem) are not independent, and the error knows it.

    The error is sqrt(sum over clusters of (sum of deviations)^2) / n: without clusters sqrt(p (1 - p) / n) for values
    of 0 and 1.
    """
    value = sum(row.value(metric) for row in rows) / len(rows)
    deviations: dict[str, float] = defaultdict(float)
    for row in rows:
        deviations[row.problem] += row.value(metric) - value
    error = math.sqrt(sum(d * d for d in deviations.values())) / len(rows)
    return Estimate(value, error if len(deviations) > 1 else None, len(rows))


def macro(parts: Iterable[Estimate]) -> Estimate:
    """Mean of estimates, each counting the same; they are taken as independent."""
    parts = list(parts)
    errors = [p.stderr for p in parts if p.stderr is not None]
    error = math.sqrt(sum(e**2 for e in errors)) / len(parts) if len(errors) == len(parts) else None
    return Estimate(sum(p.value for p in parts) / len(parts), error, sum(p.n for p in parts))


def estimates(rows: Sequence[SampleRow], metric: str, benchmark: Benchmark, aggregation: str) -> dict[str, Estimate]:
    """Subset -> estimate: `all`, the averages that the registry asks for, categories, subsets, then groups.

    Categories and subsets come in alphabetical order; rows without one are in none; a group is there when all of its
    parts are.
    """
    by_category = _split(rows, lambda row: [row.category])
    parts = {name: mean(members, metric) for name, members in sorted(by_category.items())}
    averages = {"micro": mean(rows, metric), "macro": macro(parts.values()) if parts else mean(rows, metric)}
    found = {"all": averages["macro" if aggregation == "macro" else "micro"]}
    found |= {name: averages[name] for name in benchmark.averages}
    found |= parts
    others = _split(rows, lambda row: row.subsets)
    found |= {name: mean(members, metric) for name, members in sorted(others.items()) if name not in found}
    for name, members in benchmark.groups.items():
        if all(member in found for member in members):
            found[name] = macro(found[member] for member in members)
    return found


def _split(rows: Sequence[SampleRow], names_of: Callable[[SampleRow], Iterable[str]]) -> dict[str, list[SampleRow]]:
    parts: dict[str, list[SampleRow]] = defaultdict(list)
    for row in rows:
        for name in names_of(row):
            if name not in RESERVED:
                parts[name].append(row)
    return parts


def to_records(
    rows: Sequence[SampleRow], *, benchmark: Benchmark, checkpoint: str, protocol: Protocol, samples: str
) -> list[EvalRecord]:
    """One record per subset of `estimates`, the one of all rows first."""
    metric = benchmark.metric
    return [
        EvalRecord(benchmark.name, subset, metric, e.value, e.stderr, e.n, checkpoint, protocol, samples)
        for subset, e in estimates(rows, metric, benchmark, protocol.aggregation).items()
    ]
