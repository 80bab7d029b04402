"""How often an answer was cut off or could not be found, per arm and benchmark: both can pass for a lack of skill.

    python -m reports.quality --out-dir results/micro/report --scores results/micro/baseline/scores.csv ... \\
        --benchmarks micro_chain micro_table ...

Writes quality.csv and quality.md. A rate above 5 % is flagged, and so is an arm whose rate without an answer differs
from the baseline's by more than 5 points: then the difference of the scores is in part one of form.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from evals.samples import read_samples
from reports.cells import headline
from reports.files import run_cli, write_text
from reports.layout import BASELINE, add_benchmarks_argument, arm_title, parse_benchmarks
from reports.scores import read_scores

LIMIT = 0.05
NO_ANSWER = ("no_answer", "judge_unreadable")
"""Notes of the scorers (lmmr1/rewards/judge.py, evals/judging.py) for an answer that was not found."""

COLUMNS = ["arm", "benchmark", "n", "truncated", "no_answer", "flags"]
"""Rates are fractions of `n` answers, over all seeds; `flags` is joined by `;`."""


def rates(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and benchmark (see COLUMNS). scores: rows of `reports.cells.headline`.

    Raises UserError on a missing or damaged sample file.
    """
    found = []
    for (arm, benchmark), rows in scores.groupby(["arm", "benchmark"], sort=False):
        samples = [sample for path in rows.samples for sample in read_samples(Path(path))]
        cut = sum(sample.finish == "length" for sample in samples) / len(samples)
        lost = sum(sample.note in NO_ANSWER for sample in samples) / len(samples)
        found.append([arm, benchmark, len(samples), cut, lost])
    table = pd.DataFrame(found, columns=COLUMNS[:-1])
    baseline = table[table.arm == BASELINE].set_index("benchmark").no_answer
    flags = [_flags(row, float(baseline.get(row.benchmark, row.no_answer))) for row in table.itertuples()]
    return table.assign(flags=[";".join(names) for names in flags])


def _flags(row: tuple, baseline: float) -> list[str]:
    flags = [name for name in ("truncated", "no_answer") if getattr(row, name) > LIMIT]
    return flags + (["differs from the baseline"] if abs(row.no_answer - baseline) > LIMIT else [])


def markdown(table: pd.DataFrame, titles: dict[str, str]) -> str:
    """The table as Markdown, in percent; flagged rates are bold."""
    head = "| Arm | Benchmark | Answers | Cut off, % | No answer found, % | |"
    lines = [head, "| --- | --- | ---: | ---: | ---: | --- |"]
    for row in table.itertuples():
        found = (row.truncated, row.no_answer)
        cells = [f"**{100 * rate:.1f}**" if rate > LIMIT else f"{100 * rate:.1f}" for rate in found]
        note = "differs from the baseline" if "differs" in row.flags else ""
        lines.append(f"| {arm_title(row.arm)} | {titles[row.benchmark]} | {row.n} | {cells[0]} | {cells[1]} | {note} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.quality", description="Rates of unusable answers.")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="scores.csv of each arm")
    parser.add_argument("--out-dir", type=Path, required=True)
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_benchmarks(args.benchmarks)
    table = rates(headline(read_scores(args.scores), benchmarks))
    text = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    write_text(args.out_dir / "quality.csv", text, sealed=True)
    write_text(args.out_dir / "quality.md", markdown(table, {b.name: b.title for b in benchmarks}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
