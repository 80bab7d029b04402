"""Put Table 1, and what was played, between the markers of README.md, and the records behind its numbers beside it.

    python -m reports.readme --readme README.md --table results/micro/report/table1 --records docs/table1_records.csv \\
        --played results/micro/report/paper_table3.csv \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... \\
        --manifests results/micro/baseline/0/manifest.json results/micro/fre/0/manifest.json ... \\
        --timings results/micro/timings/base/checkpoint.tsv ... [--check]

--table is the path without suffix: PATH.md is shown, PATH.csv names profile, seeds and n. --records gets one row per
record (see RECORD_COLUMNS), so that a number can be followed where results/ is not at hand. Files that already say so
are not touched. --check changes nothing and fails (exit 2) where one is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from evals.registry import find
from lmmr1.types import UserError
from reports.cells import read_table
from reports.files import Run, read_text, run_cli, write_text
from reports.layout import AGENT_CONTRAST, AVERAGES, arm_title
from reports.paper_tables import NONE, measured_text, read_cells
from reports.provenance import Manifests, link, read_manifests, wall_times
from reports.scores import read_scores
from reports.tables import escape_markdown

RECORD_COLUMNS = [
    "arm",
    "seed",
    "benchmark",
    "value",
    "n",
    "checkpoint",
    "weights_sha256",
    "commit",
    "protocol",
    "record",
]
"""`value` in [0, 1]; a number of the table is the mean of the values of its arm and column over the seeds."""
BEGIN, END = "<!-- table1:begin -->", "<!-- table1:end -->"


def replaced(readme: str, block: str, where: str) -> str:
    """`readme` with `block` between the two markers. Raises UserError unless each marker is there once, in order."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise UserError(f"{where}: needs the markers {BEGIN} and {END} once each, in this order; add them")
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{block.strip()}\n{END}{rest.partition(END)[2]}"


def cost_line(timings: list[Path]) -> str:
    """What the jobs of the run took, from Snakemake's benchmark files; empty without any."""
    rules = wall_times(timings)
    jobs, seconds = sum(n for _, n, _, _ in rules), sum(s for _, _, s, _ in rules)
    return (
        f"Wall time of its {jobs} jobs (pretraining, training, evaluation), summed: {seconds / 60:.0f} minutes."
        if jobs
        else ""
    )


def source_line(table: pd.DataFrame, commits: list[str], records: str) -> str:
    """Profile, seeds, items and commit in one sentence; seeds are those of the arm with most. records: a link."""
    seeds = max(table.seeds.str.split(";"), key=len)
    sizes = sorted(set(table[~table.column.isin(list(AVERAGES))].n))
    items = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    code = ", ".join(f"`{c}`" for c in sorted(set(commits)))
    return (
        f"Profile `{table.profile.iloc[0]}`; seeds {', '.join(seeds)} per trained arm; n = {items} items per "
        f"benchmark; trained at commit {code}. [The records behind every number]({records})."
    )


def played_block(cells: pd.DataFrame) -> str:
    """The measured scores and the contrast of Table 3 (reports.paper_tables) as a GitHub table; empty without any."""
    measured = cells[cells.measured.notna() & cells.kind.isin(["score", "contrast"])]
    if measured.empty:
        return ""
    names = list(dict.fromkeys(measured.column))
    lines = [["Player", *(find(name).title for name in names)], ["---", *["---:"] * len(names)]]
    for (kind, arm), rows in measured.groupby(["kind", "arm"], sort=False):
        title = arm_title(arm) if kind == "score" else " − ".join(map(arm_title, AGENT_CONTRAST))
        texts = {row.column: measured_text(row) for _, row in rows.iterrows()}
        lines.append([title, *(texts.get(name, NONE) for name in names)])
    head, rule, *rest = lines
    table = [escape_markdown(head), rule, *map(escape_markdown, rest)]
    return (
        "Points in what is played, with 95 % intervals (100: the best possible play of a Sokoban room):\n\n"
        + "".join(f"| {' | '.join(row)} |\n" for row in table)
    )


def record_rows(table: pd.DataFrame, scores: pd.DataFrame, manifests: Manifests) -> str:
    """The records behind the table as CSV, one row each, in the order of `scores`.

    Raises UserError where a run has no manifest.
    """
    used = {path for records in table.records for path in records.split(";")}
    rows = []
    for row in scores[(scores.subset == "all") & (scores.metric == "accuracy") & scores.record.isin(used)].itertuples():
        run = Run(row.profile, row.arm, row.seed)
        if run not in manifests:
            raise UserError(f"{row.record}: no manifest of its run among --manifests; pass it too")
        of = manifests[run]
        about = [row.checkpoint, of.get("weights_sha256"), of.get("code"), row.protocol_hash, row.record]
        rows.append([row.arm, row.seed, row.benchmark, row.value, row.n, *about])
    return pd.DataFrame(rows, columns=RECORD_COLUMNS).to_csv(index=False, lineterminator="\n")


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.readme", description="Update README.md's Table 1.")
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True, help="path of table1.md and table1.csv without suffix")
    parser.add_argument(
        "--records", type=Path, required=True, help="CSV of the records behind the table, to be written"
    )
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="scores.csv of each arm")
    parser.add_argument("--manifests", nargs="+", type=Path, required=True, help="manifest.json of every run")
    parser.add_argument("--played", type=Path, help="paper_table3.csv, to be shown below Table 1")
    parser.add_argument("--timings", nargs="*", default=[], type=Path, help="Snakemake's benchmark files of the run")
    parser.add_argument("--check", action="store_true", help="fail where a file is out of date, change nothing")
    args = parser.parse_args(argv)
    table, manifests = read_table(args.table.with_suffix(".csv")), read_manifests(args.manifests)
    where = link(args.records, args.readme.parent)
    line = source_line(table, [str(m.get("code", "unknown")) for m in manifests.values()], where)
    line = f"{line} {cost_line(args.timings)}".strip()
    played = played_block(read_cells(args.played)) if args.played else ""
    parts = [read_text(args.table.with_suffix(".md")), played, line]
    block = "\n\n".join(part.strip() for part in parts if part)
    new = {
        args.readme: replaced(read_text(args.readme), block, str(args.readme)),
        args.records: record_rows(table, read_scores(args.scores), manifests),
    }
    for path, text in new.items():
        if path.is_file() and read_text(path) == text:
            continue
        if args.check:
            raise UserError(f"{path}: out of date; run the same command without --check")
        write_text(path, text)


if __name__ == "__main__":
    sys.exit(run_cli(main))
