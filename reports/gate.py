"""The regression gate: is a checkpoint at most so many points worse than what it is held against?

    python -m reports.gate --records results/micro/candidate --against results/micro/baseline \\
        --out results/micro/check [--margin 2.0] [--benchmarks micro_chain ...] [--strict]

The same code as `lmmr1 check`. Non-inferiority per benchmark and on average: `passed` where the 95 % interval of the
difference lies above -margin (a one-sided test at 2.5 %), `regression` where a loss of more than the margin is
significant after Holm's correction over all benchmarks, else `inconclusive`. Writes check.json and junit.xml. Exit code
0, 3 for any regression, and with --strict 4 for anything inconclusive.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from lmmr1 import __version__
from lmmr1.exits import INCONCLUSIVE, REGRESSION
from lmmr1.types import UserError
from reports.compare import MEAN, Difference, compare_published, compare_records, known, remark_lines, split_comparable
from reports.files import run_cli, write_text
from reports.folders import folder_scores
from reports.power import ALPHA
from reports.rules import Rules, require_margin, rules
from reports.statistics import adjusted, ends_text
from reports.verdicts import needed_text
from reproduce.published import registry

EMPTY: Mapping[str, str] = MappingProxyType({})
PASSED, FAILED, OPEN = "passed", "regression", "inconclusive"
LEVEL = ALPHA / 2
"""Of each one-sided test: then the printed 95 % interval shows the decision."""


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint on one benchmark (or on their average), held against the reference."""

    candidate: str
    difference: Difference
    margin: float
    """A fraction, as everything here."""
    p_inferior: float
    """Of H0: worse by the margin or more; below 2.5 % it passes."""
    p_regression: float
    """Of H0: worse by the margin at most; corrected over all benchmarks, not for the average."""

    @property
    def verdict(self) -> str:
        """`passed`, `regression` or `inconclusive`."""
        if self.p_inferior < LEVEL:
            return PASSED
        return FAILED if self.p_regression < LEVEL else OPEN

    def facts(self, power: float) -> dict[str, Any]:
        """As plain values, in points; what would decide it where it is open."""
        d = self.difference
        interval = {k: known(100 * v, 4) for k, v in (("low", d.interval.low), ("high", d.interval.high))}
        return {
            "candidate": self.candidate,
            "benchmark": d.column,
            "n": d.n,
            "seeds": list(d.seeds),
            "value": round(100 * d.first, 4),
            "reference": round(100 * d.second, 4),
            "difference": round(100 * d.interval.mean, 4),
            **interval,
            "margin": round(100 * self.margin, 4),
            "p_inferior": known(self.p_inferior),
            "p_regression": known(self.p_regression),
            "verdict": self.verdict,
            "remarks": d.remarks,
            "note": needed_text(d.interval, self.margin, d.n, power, sides=1) if self.verdict == OPEN else "",
        }


def judge(candidates: dict[str, list[Difference]], used: Rules, margin: float | None = None) -> list[Row]:
    """Rows of all candidates; Holm's correction runs over all their benchmarks at once, averages apart.

    margin: points, instead of the rules' for every benchmark.
    """
    found = [(name, d) for name, differences in candidates.items() for d in differences]
    margins = [used.margin_of(d.column) if margin is None else margin / 100 for _, d in found]
    worse = np.array([1 - d.interval.p_at_most(-m) for (_, d), m in zip(found, margins, strict=True)])
    tested = np.array([d.column != MEAN for _, d in found], bool) & ~np.isnan(worse)
    worse[tested] = adjusted(worse[tested], "holm")
    return [
        Row(name, d, m, d.interval.p_at_most(-m), float(p))
        for (name, d), m, p in zip(found, margins, worse, strict=True)
    ]


def overall(rows: list[Row]) -> str:
    """`regression` for any, else `passed` where all passed, else `inconclusive`."""
    verdicts = {row.verdict for row in rows}
    return FAILED if FAILED in verdicts else PASSED if verdicts == {PASSED} else OPEN


def exit_code(rows: list[Row], strict: bool) -> int:
    """3 for any regression; with `strict` 4 for anything inconclusive; else 0."""
    return {FAILED: REGRESSION, PASSED: 0, OPEN: INCONCLUSIVE if strict else 0}[overall(rows)]


def differences(
    candidate: pd.DataFrame, against: str, benchmarks: list[str] | None, cross_protocol: bool
) -> list[Difference]:
    """candidate - reference; `against`: a folder with records, or else a row of the paper's Table 1.

    Raises UserError where the two cannot be compared.
    """
    if Path(against).is_dir():
        reference = folder_scores(Path(against), against)
        lacking = [name for name in dict.fromkeys(reference.benchmark) if name not in set(candidate.benchmark)]
        if lacking and benchmarks is None:
            raise UserError(
                f"{candidate.arm.iloc[0]}: no records of {', '.join(lacking)}, which {against} has; evaluate them, or "
                "name with --benchmarks those that shall decide"
            )
        return compare_records(candidate, reference, benchmarks, cross_protocol)
    return compare_published(candidate, against, registry(), rules(), benchmarks, cross_protocol)


def check(
    folders: list[Path],
    against: str,
    benchmarks: list[str] | None = None,
    margin: float | None = None,
    cross_protocol: bool = False,
) -> list[Row]:
    """Judge record folders against a reference. Raises UserError for bad folders, margins and mismatches."""
    require_margin(margin)
    found = {}
    for folder in folders:
        name = str(folder) if str(folder) != against else f"{folder} (again)"
        found[name] = differences(folder_scores(folder, name), against, benchmarks, cross_protocol)
    return judge(found, rules(), margin)


def left_out_of(
    folders: list[Path], against: str, benchmarks: list[str] | None, cross_protocol: bool
) -> dict[str, str]:
    """Benchmarks of record folders that cannot be held against a printed row -> why; none against records.

    Raises UserError as `check` does.
    """
    if Path(against).is_dir():
        return {}
    found = (folder_scores(folder, str(folder)) for folder in folders)
    return {
        k: v
        for f in found
        for k, v in split_comparable(f, against, registry(), rules(), benchmarks, cross_protocol)[1].items()
    }


def write(out: Path, rows: list[Row], against: str, strict: bool, left_out: Mapping[str, str] = EMPTY) -> None:
    """check.json and junit.xml in `out`, each through a temporary file. left_out: benchmark -> why."""
    code = exit_code(rows, strict)
    facts = {
        "lmmr1": __version__,
        "against": against,
        "verdict": overall(rows),
        "strict": strict,
        "exit_code": code,
        "level": LEVEL,
        "rows": [row.facts(rules().power) for row in rows],
        "left_out": dict(left_out),
    }
    write_text(out / "check.json", json.dumps(facts, indent=1) + "\n")
    write_text(out / "junit.xml", junit(rows, against, strict, left_out))


def junit(rows: list[Row], against: str, strict: bool, left_out: Mapping[str, str] = EMPTY) -> str:
    """One test case per row: a regression fails; what is inconclusive is skipped, or with `strict` fails too; what was
    left out is skipped."""
    fails = {FAILED, OPEN} if strict else {FAILED}
    counts = {
        "tests": len(rows) + len(left_out),
        "failures": sum(row.verdict in fails for row in rows),
        "skipped": (0 if strict else sum(row.verdict == OPEN for row in rows)) + len(left_out),
        "errors": 0,
    }
    suite = ElementTree.Element("testsuite", name=f"lmmr1 check against {_xml(against)}", **_texts(counts))
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(row.candidate), name=_xml(row.difference.column)
        )
        facts = row.facts(rules().power)
        ends = ends_text(facts["low"], facts["high"], "{:+.2f}".format)
        text = "{difference:+.2f} points {ends}, margin {margin:g}, n = {n}. {note}".format(ends=ends, **facts)
        text = ". ".join([text.rstrip(". "), *facts["remarks"]])
        if row.verdict != PASSED:
            kind = "failure" if row.verdict in fails else "skipped"
            ElementTree.SubElement(case, kind, message=f"{row.verdict}: {_xml(text)}")
        ElementTree.SubElement(case, "system-out").text = _xml(text)
    for name, reason in left_out.items():
        case = ElementTree.SubElement(suite, "testcase", classname="left out", name=_xml(name))
        ElementTree.SubElement(case, "skipped", message=_xml(reason))
    ElementTree.indent(suite, " ")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _texts(values: dict[str, int]) -> dict[str, str]:
    return {k: str(v) for k, v in values.items()}


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return re.sub("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", "?", text)


def table_text(rows: list[Row], against: str) -> str:
    """The table that is printed: one line per row, and the outcome."""
    head = (
        f"{'benchmark':<16}{'value':>8}{'against':>9}{'diff':>8}  {'95 % interval':<17}{'margin':>7}{'n':>7}  verdict"
    )
    lines, last = [], None
    for row in rows:
        if row.candidate != last:
            lines += [f"{row.candidate} against {against}", head]
            last = row.candidate
        f = row.facts(rules().power)
        interval = ends_text(f["low"], f["high"])
        note = f" ({f['note']})" if f["note"] else ""
        lines.append(
            f"{f['benchmark']:<16}{f['value']:>8.1f}{f['reference']:>9.1f}{f['difference']:>+8.1f}  {interval:<17}"
            f"{f['margin']:>7g}{f['n']:>7}  {f['verdict']}{note}"
        )
    open_rows = sum(row.verdict == OPEN for row in rows)
    lines += remark_lines({f"{row.candidate} {row.difference.column}": row.difference.remarks for row in rows})
    return "\n".join(
        [*lines, f"overall: {overall(rows)}" + (f" ({open_rows} of {len(rows)} open)" if open_rows else "")]
    )


def run(
    folders: list[Path],
    against: str,
    out: Path,
    benchmarks: list[str] | None = None,
    margin: float | None = None,
    strict: bool = False,
    cross_protocol: bool = False,
    left_out: Mapping[str, str] = EMPTY,
) -> int:
    """Check, print the table, write the files; the exit code. Raises UserError before anything is written.

    left_out: benchmarks that were not even evaluated, as they could not be compared -> why.
    """
    rows = check(folders, against, benchmarks, margin, cross_protocol)
    of_records = left_out_of(folders, against, benchmarks, cross_protocol)
    for name, reason in of_records.items():
        print(f"left out: {name}, {reason}")
    write(out, rows, against, strict, {**left_out, **of_records})
    print(table_text(rows, against))
    return exit_code(rows, strict)


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.gate", description="Fail where a checkpoint is worse than what it is held against."
    )
    parser.add_argument("--records", nargs="+", type=Path, required=True, help="folders with the candidates' records")
    parser.add_argument("--against", required=True, help="folder with records, or a row of the paper's Table 1")
    parser.add_argument("--out", type=Path, required=True, help="folder for check.json and junit.xml")
    parser.add_argument("--benchmarks", nargs="+", help="some of those that both have (default: all)")
    parser.add_argument("--margin", type=float, help="points that may be lost (default: config/verdicts.yaml)")
    parser.add_argument("--strict", action="store_true", help="an inconclusive benchmark fails too, with exit code 4")
    parser.add_argument("--allow-cross-protocol", action="store_true", help="compare what was measured differently")
    a = parser.parse_args(argv)
    sys.exit(run(a.records, a.against, a.out, a.benchmarks, a.margin, a.strict, a.allow_cross_protocol))


if __name__ == "__main__":
    sys.exit(run_cli(main))
