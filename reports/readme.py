"""Put Table 1 between the markers of README.md, with a line on where it comes from.

    python -m reports.readme --readme README.md --table results/micro/report/table1 \\
        --manifests results/micro/baseline/0/manifest.json results/micro/fre/0/manifest.json ... [--check]

--table is the path without suffix: PATH.md is shown, PATH.csv names profile, seeds and n. A README that already says so
is not touched. --check changes nothing and fails (exit 2) where the README is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from lmmr1.types import UserError
from reports.cells import read_table
from reports.files import read_json, read_text, run_cli, write_text
from reports.layout import AVERAGES

BEGIN, END = "<!-- table1:begin -->", "<!-- table1:end -->"


def replaced(readme: str, block: str, where: str) -> str:
    """`readme` with `block` between the two markers. Raises UserError unless each marker is there once, in order."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise UserError(f"{where}: needs the markers {BEGIN} and {END} once each, in this order; add them")
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{block.strip()}\n{END}{rest.partition(END)[2]}"


def source_line(table: pd.DataFrame, commits: list[str]) -> str:
    """Profile, seeds, items and commit in one sentence; seeds are those of the arm with most."""
    seeds = max(table.seeds.str.split(";"), key=len)
    sizes = sorted(set(table[~table.column.isin(list(AVERAGES))].n))
    items = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    code = ", ".join(f"`{c}`" for c in sorted(set(commits)))
    return (
        f"Profile `{table.profile.iloc[0]}`; seeds {', '.join(seeds)} per trained arm; n = {items} items per "
        f"benchmark; trained at commit {code}."
    )


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.readme", description="Update README.md's Table 1.")
    parser.add_argument("--readme", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True, help="path of table1.md and table1.csv without suffix")
    parser.add_argument("--manifests", nargs="+", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="fail where the README is out of date, change nothing")
    args = parser.parse_args(argv)
    commits = [str(read_json(path).get("code", "unknown")) for path in args.manifests]
    line = source_line(read_table(args.table.with_suffix(".csv")), commits)
    old = read_text(args.readme)
    new = replaced(old, f"{read_text(args.table.with_suffix('.md')).strip()}\n\n{line}", str(args.readme))
    if new != old and args.check:
        raise UserError(f"{args.readme}: Table 1 is out of date; run the same command without --check")
    if new != old:
        write_text(args.readme, new)


if __name__ == "__main__":
    sys.exit(run_cli(main))
