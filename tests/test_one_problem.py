"""Contract: one problem has a score and no interval, no error and no p-value, wherever a number is shown."""

import contextlib
import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from evals.aggregate import Estimate, macro, mean
from evals.records import error_text, read_records
from reports import gate
from reports.cells import headline, load_cells, read_table
from reports.compare import compare_folders, verdicts_of
from reports.evidence_plots import plot_forest, plot_power, plot_subsets
from reports.layout import parse_benchmarks
from reports.plots import plot_arms
from reports.rules import rules
from reports.scores import read_scores
from reports.statistics import Design, Interval, difference_interval, published_interval, score_interval
from reports.unpaired import Share
from reproduce import cli
from reproduce.published import registry
from tests import canned
from tests.report_tree import BENCHMARKS, build, write_tree


def record(folder, name: str, answers, **options):
    canned.write_answers(folder, canned.planned(name, n=len(answers), **options), answers)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run in which every benchmark has one problem."""
    root = tmp_path_factory.mktemp("one")
    results = write_tree(root, n=1, seeds=(0, 1))
    with contextlib.chdir(root):
        return build(results, seeds=(0, 1))


def test_no_file_of_a_report_shows_an_interval_or_a_nan(report):
    shown = [f for f in report.iterdir() if f.suffix in (".md", ".tex", ".csv", ".html", ".svg")]
    assert len(shown) > 10
    for file in shown:
        assert not re.search(r"\bnan\b|±\s*-?\d|\[[+−-]?\d+\.\d, ", file.read_text().split("<script")[0], re.I), (
            file.name
        )
    assert "100.0 (no interval)" in (report / "table1.md").read_text()
    rows = list(csv.DictReader((report / "table1.csv").open()))
    assert len(rows) > 20 and {(row["low"], row["high"], row["p"], row["diff_low"]) for row in rows} == {
        ("", "", "", "")
    }
    assert "cannot be told from the baseline" in (report / "index.html").read_text(), "nothing gains"


def test_figures_show_a_dot_without_reach(report):
    benchmarks = parse_benchmarks(BENCHMARKS)
    with contextlib.chdir(report.parents[2]):
        scores = read_scores(sorted(report.parent.glob("*/scores.csv")))
        table, rows = read_table(report / "table1.csv"), headline(scores, benchmarks)
        plot_arms(table, benchmarks).canvas.draw()
        forest = plot_forest(table, benchmarks, registry(), rules())
        bars = [line for c in forest.axes[0].containers for line in c.lines[2]]
        assert bars and all(np.isnan(end[0]).all() for bar in bars for end in bar.get_segments() if len(end))
        plot_power(load_cells(rows), benchmarks, rules()).canvas.draw()
        plot_subsets(scores, benchmarks).canvas.draw()


@pytest.mark.parametrize("right", [True, False])
def test_a_record_of_one_problem_has_no_error(tmp_path, right):
    (found,) = [
        r for r in read_records(record(tmp_path, "math500", [right]) / "math500/record.json") if r.subset == "all"
    ]
    assert (found.value, found.n, found.stderr, error_text(found)) == (float(right), 1, None, "-")
    assert json.loads((tmp_path / "math500/record.json").read_text())[0]["stderr"] is None


def test_errors_of_several_problems_are_what_they_were(tmp_path):
    (found,) = [
        r for r in read_records(record(tmp_path, "math500", [True, False]) / "math500/record.json") if r.subset == "all"
    ]
    assert found.stderr == pytest.approx(math.sqrt(0.25 / 2)) and error_text(found) == "35.36"
    assert error_text(replace(found, stderr=0.0)) == "-", "all alike: that is no error of 0"
    assert macro([Estimate(1.0, 0.3, 5), Estimate(0.0, 0.4, 5)]).stderr == pytest.approx(0.25)
    assert macro([Estimate(1.0, 0.3, 5), Estimate(0.0, None, 1)]).stderr is None


def test_versions_of_one_problem_are_one():
    rows = canned.rows_of(canned.planned("mathverse", n=5), [True, False, True, True, False])
    rows = [row.model_copy(update={"cluster": "p"}) for row in rows]
    assert mean(rows, "accuracy") == Estimate(0.6, None, 5)
    one = Design(clusters=np.array(["p"] * 5))
    assert score_interval([np.ones((1, 5))], [one]).unknown and not score_interval([np.ones((1, 5))]).unknown


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_interval_of_one_problem_and_none_of_an_average_with_it(k, value):
    one, many = np.full((k, 1), value), np.full((k, 4), value)
    for found in (
        score_interval([one]), score_interval([many, one]), difference_interval([one], [one]),
        difference_interval([many, one], [many, one]), published_interval([one], [Share(0.5, 100)]),
    ):  # fmt: skip
        assert found.unknown and math.isnan(found.p) and math.isnan(found.high) and not found.excludes_zero
        assert not math.isnan(found.mean) and math.isnan(found.p_at_most(-0.02))


@pytest.mark.parametrize("n", [2, 3, 4, 50])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_answers_that_are_all_alike_have_an_interval_with_width(n, value):
    found = score_interval([np.full((1, n), value)])
    assert found.high - found.low > 1 / (n + 4)
    same = difference_interval([np.full((1, n), value)], [np.full((1, n), value)])
    assert same.low < -1 / (n + 4) and same.high > 1 / (n + 4)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_check_and_compare_of_one_problem_are_open(tmp_path, first, second, monkeypatch):
    a, b = record(tmp_path / "a", "math500", [first]), record(tmp_path / "b", "math500", [second])
    (difference,) = compare_folders(a, b, None, False)
    (verdict,) = verdicts_of([difference], rules())
    assert verdict.word == "inconclusive" and verdict.reason.startswith("n = 1, no interval")
    assert difference.interval.mean == first - second
    shown = CliRunner().invoke(cli.cli, ["compare", str(a), str(b)])
    assert shown.exit_code == 0 and "no interval" in shown.output and "nan" not in shown.output
    as_json = json.loads(CliRunner().invoke(cli.cli, ["compare", str(a), str(b), "--json"]).output)["rows"][0]
    assert (as_json["low"], as_json["high"], as_json["p"]) == (None, None, None)
    checked = CliRunner().invoke(
        cli.cli, ["check", "--records", str(a), "--against", str(b), "--out", str(tmp_path), "--strict"]
    )
    assert checked.exit_code == 4 and "no interval" in checked.output and "nan" not in checked.output
    assert json.loads((tmp_path / "check.json").read_text())["rows"][0]["low"] is None
    assert "no interval" in (tmp_path / "junit.xml").read_text()


def test_one_problem_beside_others_leaves_their_verdicts_alone(tmp_path):
    for side, answers in (("a", [False] * 60), ("b", [True] * 60)):
        record(tmp_path / side, "math500", answers)
    alone = gate.check([tmp_path / "a"], str(tmp_path / "b"))
    for side in "ab":
        record(tmp_path / side, "gpqa_diamond", [True])
    rows = gate.check([tmp_path / "a"], str(tmp_path / "b"))
    of = {row.difference.column: row for row in rows}
    verdicts = {"math500": "regression", "gpqa_diamond": "inconclusive", "mean": "inconclusive"}
    assert {name: row.verdict for name, row in of.items()} == verdicts, "the average has no interval"
    assert of["math500"].p_regression == alone[0].p_regression and gate.exit_code(rows, False) == 3


def test_records_of_other_problems_are_refused(tmp_path):
    one, four = record(tmp_path / "one", "math500", [True]), record(tmp_path / "four", "math500", [True] * 4)
    for pair in ((one, four), (four, one)):
        shown = CliRunner().invoke(cli.cli, ["compare", *map(str, pair)])
        assert (
            shown.exit_code != 0
            and "other items than" in str(shown.exception)
            and "only in one of them" in str(shown.exception)
        )


def test_the_printed_interval_of_an_unknown_spread_is_a_word():
    assert Interval(0.5, math.nan, math.nan).unknown and not Interval(0.5, 0.4, 0.6).unknown
