"""Published beside measured: layout, verdicts, sources, formats; figures; nothing of it imports torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from evals.plan import Job
from evals.samples import read_samples
from reports import evidence_plots, paper_tables, scores, tables
from reports.rules import rules
from reproduce.plan import ROOT
from reproduce.published import Cell, registry
from tests import canned
from tests.benchmark_files import SEVEN, SUBJECTS, VERSIONS

BENCHMARKS = list(SEVEN)
ARMS = {"baseline": "qwen", "two_stage": "mgt_geo", "random_reward": "qwen"}
"""Arm -> the printed row whose counts it reproduces."""


def cell(name: str) -> Cell:
    return registry().cell(name)


def counts_of(benchmark: str, row: str, sizes: dict[str, int]) -> dict[str, int]:
    """Right answers per category as the row prints them; where only a mean is printed, every category has that share."""
    if benchmark == "mathverse":
        return dict(
            zip(VERSIONS, (cell(f"table2.{row}.{c}").count for c in ("td", "tl", "vi", "vd", "vo")), strict=True)
        )
    if benchmark == "mathvision":
        parts = {f"{c} geometry": cell(f"table2.{row}.{k}").count for c, k in KEYS.items()}
        metric = cell(f"table2.{row}.metric").value / 100
        parts |= {name: round(metric * n) for name, n in SUBJECTS.items() if name.startswith("metric")}
        return parts | {"counting": cell(f"table1.{row}.mathvision").count - sum(parts.values())}
    if benchmark == "mmstar":
        return {name: round(cell(f"table1.{row}.mmstar").value / 100 * n) for name, n in sizes.items()}
    return {"": cell(f"table1.{row}.{COLUMNS[benchmark]}").count}


KEYS = {"analytic": "analytic", "combinatorial": "combinatorial", "solid": "solid"}
COLUMNS = {spec.benchmark: name for name, spec in registry().tables["table1"].columns.items() if spec.benchmark}


def printed_answers(job: Job, row: str, rng: np.random.Generator) -> np.ndarray:
    """(n,) as many right answers as printed, in each category on the easiest problems: versions of one go together."""
    problems = job.measurement.prepared.problems
    names, groups = np.array([p.category for p in problems]), np.array([p.cluster or p.id for p in problems])
    ease = dict(zip(dict.fromkeys(groups), rng.permutation(len(problems)), strict=False))
    order = np.argsort([ease[group] for group in groups])
    counts = counts_of(job.name, row, {name: int((names == name).sum()) for name in dict.fromkeys(names)})
    found = np.zeros(job.n, bool)
    for name, k in counts.items():
        found[(order[names[order] == name] if name else order)[:k]] = True
    return found


def evaluate(arm: str, seed: int, benchmark: str, answers, **options: object) -> None:
    """One evaluation of a run, in the words that the arm is asked in."""
    category = options.pop("category", None)
    job = canned.planned(benchmark, role="baseline" if arm == "baseline" else "trained", **options)
    if category:
        job = canned.restricted(job, lambda problem: problem.category == category)
    found = answers(job) if callable(answers) else answers
    canned.write_answers(Path("results/paper") / arm / str(seed) / "eval", job, found, f"{arm}-{seed}")


def collect(arm: str) -> None:
    records = [str(p) for p in sorted(Path(f"results/paper/{arm}").glob("*/eval/*/record.json"))]
    scores.main(["--out", f"results/paper/{arm}/scores.csv", "--records", *records])


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """Runs under the paper's protocol with as many right answers as the paper prints, but two_stage on MATH-500, which is
    far better. The arms were asked about MathVision by rule, without a judge."""
    root = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        rng = np.random.default_rng(0)
        for arm, row in ARMS.items():
            for benchmark in BENCHMARKS:
                how = "rule" if benchmark == "mathvision" else "paper"
                right = lambda job, row=row: printed_answers(job, row, rng)
                if (arm, benchmark) == ("two_stage", "math500"):
                    right = rng.permutation(np.arange(500) < 460)
                evaluate(arm, 0, benchmark, right, protocol=how)
            collect(arm)
        paper_tables.main(["--out-dir", "out", "--scores", *files(root), "--benchmarks", *BENCHMARKS])
    return root


def files(root: Path) -> list[str]:
    return [f"results/paper/{arm}/scores.csv" for arm in ARMS]


def cells(root: Path, table: str) -> pd.DataFrame:
    return paper_tables.read_cells(root / "out" / f"paper_{table}.csv").set_index(["kind", "row", "arm", "column"])


def test_verdicts_follow_the_numbers(paper):
    found = cells(paper, "table1")
    same = found.loc[("score", "qwen", "baseline", "mathverse")]
    assert (
        same["diff"] == pytest.approx(0, abs=0.01)
        and same.verdict == "inconclusive"
        and "more items alone would not do" in same.reason
    )
    better = found.loc[("score", "mgt_geo", "two_stage", "math500")]
    assert (better.verdict, better.published, better.measured) == ("higher", 65.8, 92.0)
    gain = found.loc[("gain", "mgt_geo", "two_stage", "math500")]
    assert gain.published == pytest.approx(2.4) and gain.measured == pytest.approx(28.6) and gain.verdict == "higher"
    other = found.loc[("score", "qwen", "baseline", "mathvision")]
    assert (other.verdict, other.reason) == (
        "not comparable",
        "prompt: r1, printed: cot; judge: none, printed: Qwen2.5-14B-Instruct (extract 0)",
    )
    assert found.loc[("score", "", "random_reward", "math500")].reason == "no published value"
    assert found.loc[("score", "fre_multi", "", "math500")].published == 61.8
    assert found.loc[("score", "fre_multi", "", "gpqa")].verdict == ""


def test_everything_that_was_measured_as_printed_is_comparable(paper):
    """All columns of Table 1 but MathVision's, both ends of a gain and the averages."""
    found = cells(paper, "table1")
    for column in registry().tables["table1"].columns:
        for arm, row in (("baseline", "qwen"), ("two_stage", "mgt_geo")):
            one = found.loc[("score", row, arm, column)]
            comparable = column not in ("mathvision", "mm_avg")
            assert (one.verdict != "not comparable") == comparable, (column, one.reason)
            if (column, arm) not in (("math500", "two_stage"), ("text_avg", "two_stage")):
                slack = {"mmstar": 0.5, "mm_avg": 0.2}.get(column, 0.006)  # its parts are rounded to items
                assert one.measured == pytest.approx(one.published, abs=slack), column
    gain = found.loc["gain"].loc["mgt_geo"].loc["two_stage"].reason
    assert "change of prompt" not in gain["math500"] and "change of prompt cot -> paper" in gain["olympiadbench"]


def test_table_2_is_cut_from_the_same_records(paper):
    found = cells(paper, "table2")
    for column in ("td", "tl", "vi", "vd", "vo", "mathverse_avg"):
        cell = found.loc[("score", "mgt_geo", "two_stage", column)]
        assert cell.measured == pytest.approx(cell.published, abs=0.006), column
        assert cell.n == (3940 if column == "mathverse_avg" else 788)
    samples = read_samples(paper / "results/paper/two_stage/0/eval/mathvision/samples.jsonl")
    rows = pd.DataFrame([(s.category, s.value("accuracy")) for s in samples], columns=["category", "accuracy"])
    metric = rows[rows.category.str.startswith("metric")].groupby("category").accuracy.mean()
    assert found.loc[("score", "mgt_geo", "two_stage", "metric")].measured == pytest.approx(
        100 * metric.mean(), abs=1e-3
    )
    solid = rows[rows.category == "solid geometry"].accuracy.mean()
    analytic, combinatorial = (
        rows[rows.category == f"{s} geometry"].accuracy.mean() for s in ("analytic", "combinatorial")
    )
    mean = 25 * (analytic + combinatorial + metric.mean() + solid)
    assert found.loc[("score", "mgt_geo", "two_stage", "mathvision_avg")].measured == pytest.approx(mean, abs=1e-3)
    assert ("score", "direct_rl_geo", "", "vo") in found.index


def test_versions_of_a_problem_are_one_cluster(paper):
    found = cells(paper, "table1")
    cell = found.loc[("score", "qwen", "baseline", "mathverse")]
    samples = list(read_samples(paper / "results/paper/baseline/0/eval/mathverse/samples.jsonl"))
    by_problem = pd.Series([s.value("accuracy") for s in samples]).groupby([s.problem for s in samples]).mean()
    assert len(by_problem) == 788
    half = 100 * 1.963 * by_problem.std(ddof=1) / 788**0.5  # t(787)
    assert (cell.high - cell.low) / 2 == pytest.approx(half, rel=0.01)
    p = cell.measured / 100
    assert half > 1.8 * 196 * (p * (1 - p) / 3940) ** 0.5  # what independent items would have


def test_table_1_of_the_report_counts_problems_too(paper, monkeypatch):
    monkeypatch.chdir(paper)
    tables.main(["--out-dir", "main", "--scores", *files(paper), "--benchmarks", *BENCHMARKS])
    ours = cells(paper, "table1")
    main = pd.read_csv("main/table1.csv").set_index(["arm", "column"])
    for arm, row in (("baseline", "qwen"), ("two_stage", "mgt_geo")):
        mine, theirs = ours.loc[("score", row, arm, "mathverse")], main.loc[(arm, "mathverse")]
        assert (mine.low, mine.high) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-3)
    gain, diff = ours.loc[("gain", "mgt_geo", "two_stage", "mathverse")], main.loc[("two_stage", "mathverse")]
    assert (gain.low, gain.high) == pytest.approx((100 * diff.diff_low, 100 * diff.diff_high), abs=1e-3)


def test_every_cell_names_its_records(paper):
    for table in ("table1", "table2"):
        for key, cell in cells(paper, table).iterrows():
            assert bool(cell.records) == pd.notna(cell.measured), key
            for path in filter(None, cell.records.split(";")):
                facts = json.loads((paper / path).read_text())
                assert facts[0]["protocol_hash"] in cell.protocols.split(";")


def test_a_table_of_which_nothing_was_measured_shows_what_was_printed(paper):
    text = (paper / "out/paper_table3.md").read_text(encoding="utf-8")
    assert "Nothing of this table was measured" in text and "47.91" in text and "measured |" not in text
    for table in registry().tables["table3"].rows.values():
        assert all(f"{v:.2f}" in text for v in table.values)


@pytest.mark.parametrize("table", ["table1", "table2", "table3"])
def test_markdown_and_latex_are_well_formed(paper, table):
    text = (paper / f"out/paper_{table}.md").read_text(encoding="utf-8")
    columns = len(registry().tables[table].columns)
    pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert pipes == {columns + 3} and rules().text() in text
    tex = (paper / f"out/paper_{table}.tex").read_text(encoding="utf-8")
    assert tex.startswith(r"\begin{tabular}{ll" + "r" * columns + "}\n\\toprule\n") and tex.endswith(
        "\\bottomrule\n\\end{tabular}\n"
    )
    assert tex.isascii() and tex.count("{") == tex.count("}")
    for line in tex.splitlines():
        spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
        if line.endswith(r"\\"):
            assert line.count(" & ") + 1 + spans == columns + 2, line
        else:
            assert re.fullmatch(r"\\(begin|end|toprule|midrule|bottomrule|cmidrule).*", line), line
    if table == "table1":
        assert r"\emph{Foundational Reasoning Enhancement Stage}" in tex and r"$\uparrow$" in tex


def test_latex_compiles_with_booktabs(paper, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    inputs = "\n\n".join(rf"\input{{{paper}/out/paper_{t}}}" for t in ("table1", "table2", "table3"))
    text = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\\tiny\n{inputs}\n\\end{{document}}\n"
    (tmp_path / "all.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_benchmarks_that_the_paper_does_not_have(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for arm in ("baseline", "two_stage"):
        for seed in (0,) if arm == "baseline" else (0, 1):
            evaluate(arm, seed, "micro_chain", rng.permutation(np.arange(60) < 30), n=60)
            # a file of one category, which has no parts to show
            evaluate(arm, seed, "micro_most", lambda job: rng.random(job.n) < 0.6, n=60, category="colour")
        collect(arm)
    names = ["--scores", *files(tmp_path)[:2], "--benchmarks", "micro_chain", "micro_most"]
    paper_tables.main(["--out-dir", "out", *names])
    found = cells(tmp_path, "table1").reset_index()
    assert set(found.verdict) == {"not comparable"} and set(found.reason) == {"no published value"}
    assert found.published.isna().all() and set(found.column) == {"micro_chain", "text_avg", "micro_most", "mm_avg"}
    assert "–" in Path("out/paper_table1.md").read_text(encoding="utf-8")
    tables.main(["--out-dir", "out", *names])
    draw(tmp_path, names)
    assert "Chain" in Path("out/subsets.svg").read_text() and "Most" not in Path("out/subsets.svg").read_text()


def draw(root: Path, names: list[str]) -> None:
    evidence_plots.main(["--table", "out/table1.csv", "--out-dir", "out", *names])
    for kind in ("forest", "power", "seeds", "subsets"):
        ElementTree.fromstring((root / "out" / f"{kind}.svg").read_text(encoding="utf-8"))
        assert (root / "out" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_the_paper_benchmarks(paper, monkeypatch):
    monkeypatch.chdir(paper)
    names = ["--scores", *files(paper), "--benchmarks", *BENCHMARKS]
    tables.main(["--out-dir", "out", *names])
    draw(paper, names)
    subsets = (paper / "out/subsets.svg").read_text()
    assert all(f">{v} (788)<" in subsets for v in VERSIONS) and ">solid geometry (244)<" in subsets
    assert "No arm of this profile has more than one seed." in (paper / "out/seeds.svg").read_text()


def test_power_uses_the_measured_discordance(paper, monkeypatch):
    monkeypatch.chdir(paper)
    from reports.cells import headline, load_cells
    from reports.layout import parse_benchmarks

    found = load_cells(headline(scores.read_scores([Path(f) for f in files(paper)]), parse_benchmarks(BENCHMARKS)))
    base, two = (found[arm, "math500"].to_numpy()[0] for arm in ("baseline", "two_stage"))
    want = (two != base).mean()  # the control does not count
    assert evidence_plots.measured_discordance(found, "math500", rules()) == pytest.approx(want)
    alone = {k: v for k, v in found.items() if k[0] == "baseline"}
    assert evidence_plots.measured_discordance(alone, "math500", rules()) == rules().discordance


def test_order_of_sample_lines_does_not_matter(paper, tmp_path, monkeypatch):
    shutil.copytree(paper / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    for path in Path("results").rglob("samples.jsonl"):
        canned.reorder(path.parent)
    paper_tables.main(["--out-dir", "out", "--scores", *files(tmp_path), "--benchmarks", *BENCHMARKS])
    for table in ("table1", "table2", "table3"):
        assert (tmp_path / f"out/paper_{table}.csv").read_bytes() == (paper / f"out/paper_{table}.csv").read_bytes()


def test_no_torch_is_imported():
    names = ", ".join(f"reports.{m}" for m in ("paper_tables", "evidence_plots", "paper_audit", "gate", "compare"))
    code = f"import sys, {names}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"
