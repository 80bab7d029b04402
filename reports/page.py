"""One self-contained HTML page: summary, tables, figures, answers, provenance.

    python -m reports.page --out results/micro/report/index.html --table results/micro/report/table1.csv \\
        --contrasts results/micro/report/contrasts.csv \\
        --figures results/micro/report/arms.svg results/micro/report/curves.svg \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... \\
        --manifests results/micro/baseline/0/manifest.json ... \\
        --completions results/micro/fre/0/completions.jsonl ... --timings timings/micro/fre/0/train.tsv ... \\
        --benchmarks micro_chain micro_table ...

--contrasts may be left out; --figures, --completions and --timings may be empty. A figure's caption is the text of
reports/captions/NAME.rst.
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
from reports.cells import CONTRAST_COLUMNS, headline, read_contrasts, read_table
from reports.files import read_text, run_cli, write_text
from reports.layout import (
    AVERAGES,
    BASELINE,
    CLAIM,
    CLAIM_COLUMN,
    CONTRASTS,
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
from reports.tables import (
    CONTRASTS_CAPTION,
    DIFFERENCES_CAPTION,
    MEANS_CAPTION,
    difference_texts,
    mean_cell,
    with_marks,
)

HERE = Path(__file__).parent


def summary(table: pd.DataFrame, contrasts: pd.DataFrame, benchmarks: list[Benchmark]) -> list[str]:
    """What the averages say: the claimed contrast, one sentence per average, one on the random-reward control.

    table, contrasts: columns of `reports.cells.COLUMNS` and `CONTRAST_COLUMNS`.
    """
    averages = [c for c in columns(benchmarks) if c[0] in AVERAGES]
    sentences = [
        f"Text-first against direct RL: {_claim(row, f'{title} of {len(members)} benchmarks')}."
        for column, title, members in averages
        for _, row in contrasts[contrasts.column == column].iterrows()
        if (row.arm, row.against, column) == (*CLAIM, CLAIM_COLUMN)
    ]
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


def _claim(row: pd.Series, where: str) -> str:
    """Which side of the other arm an arm lies on, if any."""
    points, ends = _points(row)
    arm, against = arm_title(row.arm), arm_title(row.against)
    if not Interval(row["diff"], row.diff_low, row.diff_high).excludes_zero:
        return f"{arm} is not distinguishable from {against} in the {where} ({points} points, {ends})"
    side = "above" if row.diff_low > 0 else "below"
    return f"{arm} is {points.lstrip('+−')} points {side} {against} in the {where} ({ends})"


def _points(row: pd.Series) -> tuple[str, str]:
    """`+5.2` and `95 % interval +1.1 to +9.3`, in points."""
    mean, low, high = (f"{100 * v:+.1f}".replace("-", "−") for v in (row["diff"], row.diff_low, row.diff_high))
    return mean, f"95\u00a0% interval {low} to {high}"


def _verdict(row: pd.Series) -> str:
    points, ends = _points(row)
    if not Interval(row["diff"], row.diff_low, row.diff_high).excludes_zero:
        return f"cannot be told from the baseline ({points} points, {ends})"
    return f"{'gains' if row.diff_low > 0 else 'loses'} {points.lstrip('+−')} points ({ends})"


def table_rows(table: pd.DataFrame, decimals: int = 1) -> list[dict[str, Any]]:
    """The template's view of the table: per arm its name, title and cells."""
    arms = []
    for arm, rows in with_marks(table).groupby("arm", sort=False):
        cells = []
        for _, row in rows.iterrows():
            mean, _, half = mean_cell(row, decimals).partition(" ± ")
            cells.append(
                {
                    **_difference(row, decimals),
                    "mean": mean,
                    "half_width": half,
                    "column": row.column,
                    "n": row.n,
                    "protocols": row.protocols,
                }
            )
        arms.append({"name": arm, "title": arm_title(arm), "cells": cells})
    return arms


def contrast_rows(contrasts: pd.DataFrame, decimals: int = 1) -> list[dict[str, Any]]:
    """The template's view of the contrasts: per pair of arms its title and cells."""
    return [
        {"title": CONTRASTS[pair], "cells": [_difference(row, decimals) for _, row in rows.iterrows()]}
        for pair, rows in with_marks(contrasts).groupby(["arm", "against"], sort=False)
    ]


def _difference(row: pd.Series, decimals: int) -> dict[str, Any]:
    """A cell of differences; `diff` is empty for the baseline."""
    diff, ends = ("", "") if pd.isna(row["diff"]) else difference_texts(row, decimals)
    return {
        "diff": diff,
        "diff_ends": ends,
        "mark": row.mark,
        "verdict": "gain" if row.diff_low > 0 else "loss" if row.diff_high < 0 else "",
        "average": row.column in AVERAGES,
        "records": row.records,
    }


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
    parser.add_argument("--contrasts", type=Path, help="contrasts.csv (default: no contrasts are shown)")
    for name in ("--scores", "--manifests"):
        parser.add_argument(name, type=Path, nargs="+", required=True)
    for name in ("--figures", "--completions", "--timings"):
        parser.add_argument(name, type=Path, nargs="*", default=[])
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_benchmarks(args.benchmarks)
    table = read_table(args.table)
    contrasts = read_contrasts(args.contrasts) if args.contrasts else pd.DataFrame(columns=CONTRAST_COLUMNS)
    scores = headline(read_scores(args.scores), benchmarks)
    shown = [{"title": title, "average": name in AVERAGES} for name, title, _ in columns(benchmarks)]
    write_text(
        args.out,
        render(
            profile=table.profile.iloc[0],
            seeds=", ".join(max(table.seeds.str.split(";"), key=len)),
            summary=summary(table, contrasts, benchmarks),
            means_caption=MEANS_CAPTION,
            differences_caption=DIFFERENCES_CAPTION,
            contrasts_caption=CONTRASTS_CAPTION,
            contrasts=contrast_rows(contrasts),
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
