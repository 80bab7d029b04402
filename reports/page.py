"""One self-contained HTML page: summary, table, figures, answers, provenance.

    python -m reports.page --out results/micro/report/index.html --table results/micro/report/table1.csv \\
        --figures results/micro/report/arms.svg results/micro/report/curves.svg \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... \\
        --manifests results/micro/baseline/0/manifest.json ... \\
        --completions results/micro/fre/0/completions.jsonl ... --timings timings/micro/fre/0/train.tsv ... \\
        --benchmarks micro_chain micro_table ...

--figures, --completions and --timings may be empty. A figure's caption is the text of reports/captions/NAME.rst.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lmmr1.types import UserError
from reports.cells import headline, read_table
from reports.files import read_text, run_cli, write_text
from reports.layout import (
    AVERAGES,
    BASELINE,
    CONTROL,
    GROUP_TITLES,
    Benchmark,
    add_benchmarks_argument,
    arm_title,
    columns,
    parse_benchmarks,
)
from reports.plots import INK, LINE
from reports.provenance import Manifests, read_manifests, settings, versions, wall_times
from reports.samples import LIMIT, pick_answers, pick_training
from reports.scores import read_scores
from reports.statistics import Interval
from reports.tables import DIFFERENCES_CAPTION, MEANS_CAPTION, difference_cell, mean_cell

HERE = Path(__file__).parent


def summary(table: pd.DataFrame, benchmarks: list[Benchmark]) -> list[str]:
    """What the averages say, one sentence per average and one on the random-reward control.

    table: columns of `reports.cells.COLUMNS`.
    """
    sentences = []
    averages = [c for c in columns(benchmarks) if c[0] in AVERAGES]
    for name, title, members in reversed(averages):  # the multimodal one first: the paper's claim
        rows = table[(table.column == name) & ~table.arm.isin([BASELINE, CONTROL])]
        verdicts = "; ".join(f"{arm_title(row.arm)} {_verdict(row)}" for _, row in rows.iterrows())
        if verdicts:
            sentences.append(f"{title} of {len(members)} benchmarks, compared with the baseline: {verdicts}.")
    control = table[(table.arm == CONTROL) & (table.column == averages[-1][0])]
    for _, row in control.iterrows():
        reading = (
            " A reward that ignores the answer gains too: hold the other gains against this one."
            if row.diff_low > 0
            else ""
        )
        sentences.append(f"The random-reward control {_verdict(row)} in the {averages[-1][1]}.{reading}")
    return sentences


def _verdict(row: pd.Series) -> str:
    interval = Interval(row["diff"], row.diff_low, row.diff_high)
    ends = f"95\u00a0% interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}".replace("-", "−")
    if not interval.excludes_zero:
        return f"cannot be told from the baseline ({100 * interval.mean:+.1f} points, ".replace("-", "−") + f"{ends})"
    return f"{'gains' if interval.low > 0 else 'loses'} {abs(100 * interval.mean):.1f} points ({ends})"


def table_rows(table: pd.DataFrame, decimals: int = 1) -> list[dict[str, Any]]:
    """The template's view of the table: per arm its name, title and cells."""
    arms = []
    for arm, rows in table.groupby("arm", sort=False):
        cells = []
        for _, row in rows.iterrows():
            mean, _, half = mean_cell(row, decimals).partition(" ± ")
            has_diff = not pd.isna(row["diff"])
            text = difference_cell(row, decimals).removesuffix(" *") if has_diff else ""
            diff, _, ends = text.partition(" ")
            verdict = "gain" if row.diff_low > 0 else "loss" if row.diff_high < 0 else ""
            cells.append(
                {
                    "mean": mean,
                    "half_width": half,
                    "diff": diff,
                    "diff_ends": ends,
                    "verdict": verdict,
                    "average": row.column in AVERAGES,
                    "records": row.records,
                    "column": row.column,
                    "n": row.n,
                    "protocols": row.protocols,
                }
            )
        arms.append({"name": arm, "title": arm_title(arm), "cells": cells})
    return arms


def group_spans(benchmarks: list[Benchmark]) -> list[tuple[str, int]]:
    """(title, columns) of the header's first row; an average has no title."""
    shown = columns(benchmarks)
    titles = ["" if name in AVERAGES else GROUP_TITLES[members[0].group] for name, _, members in shown]
    return [(title, len(list(run))) for title, run in groupby(titles)]


def inline_svg(path: Path) -> Markup:
    """A figure of reports.plots as markup for the page: ids made unique, ink and lines in the page's colours.

    Raises UserError on a missing file or one that is not such a figure.
    """
    text = read_text(path)
    start = text.find("<svg")
    if start < 0 or re.search(r"<script|\son\w+=|href=\"[^#]", text, re.IGNORECASE):
        raise UserError(f"{path}: not a figure of reports.plots; make it again")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[start:], flags=re.DOTALL)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{re.escape(path.stem)}-", text)
    text = text.replace(INK, "currentColor").replace(LINE, "var(--line)")
    return Markup(text.replace("<svg ", '<svg role="img" ', 1))


def caption(name: str) -> str:
    """The text of reports/captions/NAME.rst as plain text; empty where there is none."""
    path = HERE / "captions" / f"{name}.rst"
    return " ".join(read_text(path).replace("``", "").split()) if path.is_file() else ""


def render(**context: Any) -> str:
    """Fill page.html.jinja with autoescape on; the page's own script is allowed by its hash, no other script runs."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.filters["sha256_base64"] = lambda text: base64.b64encode(
        hashlib.sha256(text.encode()).digest()
    ).decode()
    return environment.get_template("page.html.jinja").render(**context, arm_title=arm_title, limit=LIMIT)


def provenance(manifests: Manifests, timings: list[Path]) -> dict[str, Any]:
    """The template's view of where the numbers come from."""
    common, different = settings(manifests)
    runs = []
    for run, manifest in manifests.items():
        shown = {key: manifest.get(key) or "-" for key in ("key", "parent", "code", "device")}
        weights = str(manifest.get("weights_sha256"))[:12]
        runs.append({"arm": run.arm, "seed": run.seed, "weights": weights, **shown})
    return {
        "runs": runs,
        "common": common,
        "different": different,
        "versions": versions(manifests),
        "setting_arms": list(next(iter(different.values()), {})),
        "timings": wall_times(timings),
        "commits": sorted({str(r["code"]) for r in runs}),
    }


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.page", description="Write the HTML page.")
    for name in ("--out", "--table"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--scores", "--manifests"):
        parser.add_argument(name, type=Path, nargs="+", required=True)
    for name in ("--figures", "--completions", "--timings"):
        parser.add_argument(name, type=Path, nargs="*", default=[])
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_benchmarks(args.benchmarks)
    table = read_table(args.table)
    scores = headline(read_scores(args.scores), benchmarks)
    shown = [{"title": title, "average": name in AVERAGES} for name, title, _ in columns(benchmarks)]
    write_text(
        args.out,
        render(
            profile=table.profile.iloc[0],
            seeds=", ".join(max(table.seeds.str.split(";"), key=len)),
            summary=summary(table, benchmarks),
            means_caption=MEANS_CAPTION,
            differences_caption=DIFFERENCES_CAPTION,
            columns=shown,
            groups=group_spans(benchmarks),
            arms=table_rows(table),
            benchmarks=benchmarks,
            titles={b.name: b.title for b in benchmarks},
            figures=[{"svg": inline_svg(p), "caption": caption(p.stem)} for p in args.figures],
            answers=pick_answers(scores),
            training=pick_training(args.completions),
            **provenance(read_manifests(args.manifests), args.timings),
        ),
    )


if __name__ == "__main__":
    sys.exit(run_cli(main))
