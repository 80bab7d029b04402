"""Contract: versions of one problem and categories of a macro average reach every interval, p-value, gate and contrast.

The records are written by the evaluation's own writers. Most replications draw scores on the design that the commands
read from those records, and call what the commands call; a handful are whole runs of the commands.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from evals.aggregate import to_records
from evals.expected import expect, instruction_of
from evals.plan import Options
from evals.problems import Problem
from evals.records import read_records
from evals.registry import find
from evals.run import new_folder, write_evaluation
from evals.scoring import sample_row
from lmmr1.rewards import Verdict
from lmmr1.types import Rollout, UserError
from reports import gate, prompt_styles, scores
from reports.cells import headline, load_cells, load_designs, load_items, macro_weights, summarise, summarise_contrasts
from reports.compare import compare_folders, printed_share
from reports.folders import folder_scores
from reports.layout import parse_benchmarks
from reports.protocols import word_of
from reports.rules import rules
from reports.statistics import Design, Interval, difference_interval, score_interval
from reproduce.cli import cli
from reproduce.published import registry

PROBLEMS, VERSIONS, CORRELATION = 788, 5, 0.5
SIZES = (30, 120, 55, 200, 80, 45, 150, 60, 90, 40, 110, 70, 25, 100, 85, 50, 130, 60)
"""Items of MM-Star's 18 sub-categories: 1,500, of unequal size as in the benchmark."""
REPLICATIONS = 2000


def mathverse_problems(clusters: bool = True) -> list[Problem]:
    """788 problems in five versions each, as `evals.adapters.mathverse` names them."""
    return [
        Problem(str(i), "how much?", "1", f"version {i % VERSIONS}", cluster=f"{i // VERSIONS}" if clusters else "")
        for i in range(PROBLEMS * VERSIONS)
    ]


def mmstar_problems() -> list[Problem]:
    names = [f"sub {k}" for k, size in enumerate(SIZES) for _ in range(size)]
    return [Problem(str(i), "which?", "A", name) for i, name in enumerate(names)]


def drawn(rng: np.random.Generator, p: float = 0.4) -> np.ndarray:
    """(788 x 5,) of 0 and 1: each item copies its problem's draw with probability sqrt(0.5), so that two versions of a
    problem correlate with 0.5."""
    shared = np.repeat(rng.random(PROBLEMS) < p, VERSIONS)
    own = rng.random(PROBLEMS * VERSIONS) < p
    return np.where(rng.random(PROBLEMS * VERSIONS) < np.sqrt(CORRELATION), shared, own).astype(float)


def measure(folder: Path, benchmark: str, problems: list[Problem], right: np.ndarray, **options: object) -> Path:
    """A finished evaluation of `benchmark` in `folder`, by the writers of `lmmr1 eval`."""
    folder.mkdir(parents=True, exist_ok=True)
    given = Options.of(**{"protocol": "paper"} | options)
    expected = expect(find(benchmark), given)
    if expected.settings["prompt"] != "paper" or given.system_prompt_file:  # whose text is nowhere else
        expected.settings.update(instruction_of(find(benchmark), given))
    rows = [
        sample_row(
            i, problem, "0" * 64, Rollout(problem.id, (1,), (0.0,), "1", "stop"), Verdict(float(r), 0.0, "", "1")
        )
        for i, (problem, r) in enumerate(zip(problems, right, strict=True))
    ]
    with new_folder(folder, benchmark) as inside:
        about = {"benchmark": find(benchmark), "checkpoint": "key", "samples": "samples.jsonl"}
        write_evaluation(inside, rows, to_records(rows, protocol=expected.protocol, **about))
    return folder


def design_read(folder: Path, benchmark: str) -> Design:
    """As the commands read it."""
    return load_designs(folder_scores(folder, "a"))[benchmark]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Two runs on MathVerse-like records of equal skill, in samples' order, and what they answered."""
    root, rng = tmp_path_factory.mktemp("verse"), np.random.default_rng(0)
    a, b = drawn(rng), drawn(rng)
    first = measure(root / "a", "mathverse", mathverse_problems(), a)
    return first, measure(root / "b", "mathverse", mathverse_problems(), b), a, b


def in_cell_order(right: np.ndarray) -> np.ndarray:
    """(1, n): items of a cell are sorted by the text of their id."""
    return right[np.argsort([str(i) for i in range(len(right))])][None]


def error_rates(design: Design, replications: int = REPLICATIONS) -> dict[str, float]:
    """Over draws on a design: how often the intervals hold the truth, and a true difference of 0 is significant."""
    rng, held = np.random.default_rng(1), []
    for _ in range(replications):
        a, b = in_cell_order(drawn(rng)), in_cell_order(drawn(rng))
        score, diff = score_interval([a], [design]), difference_interval([a], [b], [design])
        held.append((score.low <= 0.4 <= score.high, diff.low <= 0 <= diff.high, diff.p < 0.05))
    score_held, diff_held, significant = np.mean(held, axis=0)
    return {"score": score_held, "difference": diff_held, "significant": significant}


def test_intervals_on_shared_problems_cover_what_they_say(two):
    rates = error_rates(design_read(two[0], "mathverse"))
    assert 0.93 <= rates["score"] <= 0.97 and 0.93 <= rates["difference"] <= 0.97, rates
    assert rates["significant"] <= 0.06, rates


def test_without_the_clusters_the_same_draws_are_significant_far_too_often(tmp_path):
    """The mutation that the test above must notice: records whose writer leaves the problem out."""
    folder = measure(
        tmp_path / "blank", "mathverse", mathverse_problems(clusters=False), drawn(np.random.default_rng(0))
    )
    design = design_read(folder, "mathverse")
    rates = error_rates(design, 500)
    assert design.clusters is None and rates["significant"] > 0.2 and rates["score"] < 0.85, rates


def test_the_record_and_the_tables_have_one_standard_error(two):
    record = read_records(two[0] / "mathverse/record.json")[0]
    interval = score_interval([in_cell_order(two[2])], [design_read(two[0], "mathverse")])
    assert interval.item_variance**0.5 == pytest.approx(record.stderr, rel=2e-3)
    assert interval.half_width == pytest.approx(1.96 * record.stderr, rel=5e-3)


def invoke(*args: object) -> str:
    done = CliRunner().invoke(cli, [str(a) for a in args])
    assert done.exit_code in (0, 3), (done.output, done.exception)
    return done.output


def true_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, ends and p of a difference by the textbook: means of problems are independent, here all of one size."""
    per_problem = (a - b).reshape(PROBLEMS, VERSIONS).mean(axis=1)
    test = stats.ttest_1samp(per_problem, 0.0)
    low, high = test.confidence_interval(0.95)
    return per_problem.mean(), low, high, test.pvalue


def test_the_gate_prints_the_interval_of_problems(two, tmp_path):
    first, second, a, b = two
    invoke("check", "--records", first, "--against", second, "--out", tmp_path / "out")
    row = json.loads((tmp_path / "out/check.json").read_text())["rows"][0]
    mean, low, high, _ = true_difference(a, b)
    assert [row["difference"], row["low"], row["high"]] == pytest.approx([100 * mean, 100 * low, 100 * high], abs=1e-3)
    printed = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    assert printed in (tmp_path / "out/junit.xml").read_text()


def test_compare_prints_the_interval_and_the_p_of_problems(two):
    first, second, a, b = two
    row = json.loads(invoke("compare", first, second, "--json"))["rows"][0]
    mean, low, high, p = true_difference(a, b)
    found = [row["difference"], row["low"], row["high"], 100 * row["p_unadjusted"]]
    assert found == pytest.approx([100 * mean, 100 * low, 100 * high, 100 * p], abs=1e-3)
    assert row["bootstrap"] == pytest.approx([100 * low, 100 * high], abs=0.25)
    assert row["discordance"] is None, "McNemar's theory is not that of shared problems"


def test_the_gate_fails_nobody_too_often_on_shared_problems(two):
    """A checkpoint that is worse by just the margin passes in 2.5 % of runs, and is no regression in 97.5 %."""
    design, rng, passed, failed = design_read(two[0], "mathverse"), np.random.default_rng(2), [], []
    for _ in range(REPLICATIONS):
        a, b = in_cell_order(drawn(rng, 0.38)), in_cell_order(drawn(rng, 0.4))
        p = difference_interval([a], [b], [design]).p_at_most(-0.02)
        passed.append(p < 0.025)
        failed.append(1 - p < 0.025)
    assert np.mean(passed) <= 0.035 and np.mean(failed) <= 0.035, (np.mean(passed), np.mean(failed))


def test_prompt_styles_print_the_interval_of_problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, files, right = np.random.default_rng(3), [], {}
    for style in ("none", "cot"):
        for arm in ("baseline", "fre"):
            right[style, arm] = drawn(rng)
            folder = Path("results/micro/prompts") / style / arm
            measure(folder / "0/eval", "mathverse", mathverse_problems(), right[style, arm], prompt=style)
            files.append(str(folder / "scores.csv"))
            scores.main(["--out", files[-1], "--records", str(folder / "0/eval/mathverse/record.json")])
    prompt_styles.main(["--out-dir", "out", "--benchmarks", "mathverse", "--scores", *files])
    table = prompt_styles.read_table(Path("out/prompts.csv"))
    for row in table[table.column == "mathverse"].itertuples():
        best = right[row.best, "baseline"]
        if (row.arm, row.style) != ("baseline", row.best):
            mean, low, high, p = true_difference(right[row.style, row.arm], best)
            assert [row.diff, row.diff_low, row.diff_high, row.p] == pytest.approx([mean, low, high, p], abs=2e-5)


def test_tables_and_contrasts_have_the_interval_of_problems(tmp_path, monkeypatch):
    """Table 1's gains over the baseline, and the contrast of the paper's claim, on the records of three arms."""
    monkeypatch.chdir(tmp_path)
    rng, paths = np.random.default_rng(5), []
    right = {arm: drawn(rng) for arm in ("baseline", "two_stage", "mgt_only")}
    for arm, answers in right.items():
        role = "baseline" if arm == "baseline" else "trained"
        measure(Path("results/micro") / arm / "0/eval", "mathverse", mathverse_problems(), answers, role=role)
        paths.append(Path("results/micro") / arm / "0/eval/mathverse/record.json")
    rows, benchmarks = scores.collect(paths), parse_benchmarks(["mathverse"])
    rows = headline(rows, benchmarks)
    cells = load_cells(rows)
    table = summarise(rows, cells, benchmarks).set_index(["arm", "column"])
    contrasts = summarise_contrasts(rows, cells, benchmarks).set_index(["arm", "against", "column"])
    found = [
        (table.loc["two_stage", "mathverse"], ["diff", "diff_low", "diff_high", "p"], "two_stage", "baseline"),
        (
            contrasts.loc["two_stage", "mgt_only", "mathverse"],
            ["diff", "diff_low", "diff_high", "p"],
            "two_stage",
            "mgt_only",
        ),
    ]
    for row, names, first, second in found:
        expected = true_difference(right[first], right[second])
        assert [row[name] for name in names] == pytest.approx(expected, abs=1e-5), (first, second)


# ---------------------------------------------------------------------------------------------- macro averages


def test_macro_averages_cover_what_they_say_and_agree_with_the_record(tmp_path):
    """MM-Star: categories of unequal size and very unequal difficulty, each counting the same."""
    problems, rng = mmstar_problems(), np.random.default_rng(4)
    skill = np.repeat(np.linspace(0.15, 0.9, len(SIZES)), SIZES)
    draw = lambda: (rng.random(len(skill)) < skill).astype(float)
    folder = measure(tmp_path / "star", "mmstar", problems, draw())
    rows = folder_scores(folder, "a")
    record, design = read_records(folder / "mmstar/record.json")[0], design_read(folder, "mmstar")
    assert rows.aggregation.iloc[0] == "macro" and len(set(design.strata)) == 18
    cell = load_cells(rows)["a", "mmstar"].to_numpy()
    interval = score_interval([cell], [design])
    assert interval.mean == pytest.approx(record.value)
    assert interval.item_variance**0.5 == pytest.approx(record.stderr, rel=0.02)  # a stratum's n - 1 instead of n

    weights = in_cell_order(macro_weights(pd.Series([p.category for p in problems])))
    truth, held = float(np.linspace(0.15, 0.9, len(SIZES)).mean()), []
    for _ in range(REPLICATIONS):
        a, b = in_cell_order(draw()) * weights, in_cell_order(draw()) * weights
        score, diff = score_interval([a], [design]), difference_interval([a], [b], [design])
        held.append((score.low <= truth <= score.high, diff.low <= 0 <= diff.high, diff.p < 0.05))
    score_held, diff_held, significant = np.mean(held, axis=0)
    assert 0.93 <= score_held <= 0.97 and 0.93 <= diff_held <= 0.97, (score_held, diff_held)
    assert significant <= 0.06
    plain = score_interval([in_cell_order(draw()) * weights], [Design()])
    assert plain.half_width > 1.2 * interval.half_width, (
        "without strata the categories' difficulty would count as error"
    )


def test_two_measurements_that_group_their_items_otherwise_are_refused_in_either_order(two, tmp_path):
    """Else the interval would be that of whichever file is read first, and the gate could pass on the wrong one."""
    first, _, _, b = two
    bare = measure(tmp_path / "bare", "mathverse", mathverse_problems(clusters=False), b)
    for pair in ((first, bare), (bare, first)):
        with pytest.raises(UserError, match="item 0 has problem and category .* evaluate both on the same data"):
            compare_folders(*pair, None, False)


def test_a_category_of_one_problem_does_not_make_a_mean_over_categories_certain(tmp_path):
    """Most of these categories say nothing of their spread: within them every draw would have the variance 0."""
    problems = [Problem(str(i), "which?", "A", f"sub {min(i, 17)}") for i in range(30)]
    rng = np.random.default_rng(0)
    right = (rng.random(30) < 0.5).astype(float)
    design = design_read(measure(tmp_path / "few", "mmstar", problems, right), "mmstar")
    weights = macro_weights(load_items(folder_scores(tmp_path / "few", "a").iloc[0]).category)
    significant = [
        difference_interval([a[None] * weights], [b[None] * weights], [design]).p < 0.05
        for a, b in (rng.random((2, 30)) < 0.5 for _ in range(1000))
    ]
    assert np.mean(significant) <= 0.06


def test_the_gate_refuses_where_a_benchmark_of_the_reference_is_missing(two, tmp_path):
    first, _, a, _ = two
    measure(tmp_path / "more", "mathverse", mathverse_problems(), a)
    measure(tmp_path / "more", "mmstar", mmstar_problems(), (np.arange(sum(SIZES)) % 2).astype(float))
    with pytest.raises(UserError, match="no records of mmstar, which .* has; evaluate them, or name with --benchmarks"):
        gate.check([first], str(tmp_path / "more"))
    assert len(gate.check([first], str(tmp_path / "more"), ["mathverse"])) == 1


def test_what_becomes_of_a_gain_under_another_protocol():
    up, down, none = (Interval(m, m - 0.02, m + 0.02) for m in (0.1, -0.1, 0.0))
    words = [word_of(*case) for case in ((up, up, none), (up, down, down), (up, none, down), (none, up, up))]
    assert words == ["holds", "reversed", "only there", "only here"]
    assert (word_of(up, none, none), word_of(none, none, none)) == ("open", "no gain")


def test_a_printed_mean_of_parts_is_as_certain_as_its_parts():
    """Table 2, Metric: 173, 500 and 449 items weigh alike, which is less than 1,122 items' worth."""
    share = printed_share(registry().cell("table2.qwen.metric"), rules())
    assert share.n == pytest.approx(9 / (1 / 173 + 1 / 500 + 1 / 449))
