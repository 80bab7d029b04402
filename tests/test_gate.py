"""`lmmr1 check`, `lmmr1 compare` and the workflow's gate: verdicts, refusals, exit codes and files, from records alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmmr1.types import UserError
from reports import gate
from reports.comparable import differences
from reports.compare import MEAN, compare_folders, compare_published, taken_of, verdicts_of
from reports.folders import folder_scores
from reports.rules import Rules, load_rules, rules
from reports.statistics import Interval, difference_interval
from reports.verdicts import judge, needed_items
from reproduce.cli import cli
from reproduce.plan import ROOT
from reproduce.published import registry
from tests import canned


def write_eval(folder: Path, benchmark: str, right: np.ndarray, **options: object) -> Path:
    """An evaluation folder/benchmark; right: (n,) 0/1; options: of `canned.planned`. Returns that folder."""
    return canned.write_answers(folder, canned.planned(benchmark, n=len(right), **options), np.asarray(right, bool))


def answers(seed: int, n: int = 500, skill: float = 0.6) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < skill).astype(float)


@pytest.fixture
def base(tmp_path):
    """Two benchmarks of a baseline."""
    for i, name in enumerate(("micro_chain", "micro_table")):
        write_eval(tmp_path / "base", name, answers(i))
    return tmp_path / "base"


def worse(right: np.ndarray, points: float, seed: int = 9) -> np.ndarray:
    """The same answers with so many points fewer right ones, on random items."""
    change = np.random.default_rng(seed).permutation(np.flatnonzero(right))[: round(points / 100 * len(right))]
    return np.where(np.isin(np.arange(len(right)), change), 0.0, right)


def candidate(tmp_path, points: float, name: str = "candidate", **options) -> Path:
    for i, benchmark in enumerate(("micro_chain", "micro_table")):
        write_eval(tmp_path / name, benchmark, worse(answers(i), points), **options)
    return tmp_path / name


def invoke(*args: object):
    return CliRunner().invoke(cli, [str(a) for a in args])


# ------------------------------------------------------------------------------------- the gate


def test_a_checkpoint_passes_against_itself(base, tmp_path):
    done = invoke("check", "--records", base, "--against", base, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert facts["verdict"] == "passed" and [r["benchmark"] for r in facts["rows"]] == [
        "micro_chain",
        "micro_table",
        MEAN,
    ]
    assert all(r["difference"] == 0 and r["verdict"] == "passed" for r in facts["rows"])


@pytest.mark.parametrize(("points", "strict", "code", "word"), [
    (0.4, False, 0, "passed"), (2, False, 0, "inconclusive"), (2, True, 4, "inconclusive"), (8, False, 3, "regression"), (8, True, 3, "regression"),
])  # fmt: skip
def test_exit_codes(base, tmp_path, points, strict, code, word):
    folder = candidate(tmp_path, points)
    options = ["--strict"] if strict else []
    done = invoke("check", "--records", folder, "--against", base, "--out", tmp_path / "out", *options)
    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert (done.exit_code, facts["exit_code"], facts["verdict"], facts["strict"]) == (code, code, word, strict)
    assert f"overall: {word}" in done.output


def test_junit_says_the_same(base, tmp_path):
    for strict in (False, True):
        rows = gate.check([candidate(tmp_path, 2)], str(base))
        suite = ElementTree.fromstring(gate.junit(rows, str(base), strict))
        states = {case.get("name"): [child.tag for child in case] for case in suite}
        for row in rows:
            state = {"passed": [], "inconclusive": ["failure" if strict else "skipped"], "regression": ["failure"]}
            assert states[row.difference.column] == [*state[row.verdict], "system-out"]
        assert int(suite.get("failures")) == sum(tags[0] == "failure" for tags in states.values())
        assert int(suite.get("tests")) == len(rows) == 3
    hostile = gate.junit(gate.check([candidate(tmp_path, 8, "a<b>&\"\x01'")], str(base)), "\x00<&", True)
    assert ElementTree.fromstring(hostile)[0].get("classname").endswith("a<b>&\"?'")


def test_margin_and_benchmarks_are_options(base, tmp_path):
    folder = candidate(tmp_path, 8)
    out = tmp_path / "out"
    assert invoke("check", "--records", folder, "--against", base, "--margin", 15, "--out", out).exit_code == 0
    done = invoke("check", "--records", folder, "--against", base, "--benchmarks", "micro_table", "--out", out)
    assert done.exit_code == 3
    assert [r["benchmark"] for r in json.loads((out / "check.json").read_text())["rows"]] == ["micro_table"]


def test_the_module_and_the_command_are_the_same_code(base, tmp_path):
    folder = candidate(tmp_path, 8)
    args = ["--records", str(folder), "--against", str(base)]
    with pytest.raises(SystemExit) as end:
        gate.main([*args, "--out", str(tmp_path / "a")])
    done = invoke("check", *args, "--out", tmp_path / "b")
    assert end.value.code == done.exit_code == 3
    for name in ("check.json", "junit.xml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_decision_is_the_printed_interval(base, tmp_path):
    """`passed` just where the interval lies above -margin: one run against one, and several seeds."""
    for points in np.arange(0, 4, 0.4):
        for row in gate.check([candidate(tmp_path, float(points))], str(base)):
            assert (row.verdict == "passed") == (row.difference.interval.low > -row.margin)
    for seed in range(3):
        write_eval(tmp_path / f"seeds/{seed}/eval", "micro_chain", worse(answers(0), 1, seed))
    (row,) = gate.check([tmp_path / "seeds"], str(base), ["micro_chain"])
    assert row.difference.seeds == (3, 1) and (row.verdict == "passed") == (row.difference.interval.low > -row.margin)


@given(p=st.floats(0.02, 0.98), seed=st.integers(0, 1000))
def test_a_regression_is_never_called_where_the_interval_holds_the_margin(p, seed):
    rng = np.random.default_rng(seed)
    arm, other = (rng.random(60) < p).astype(float), (rng.random(60) < 0.5).astype(float)
    diff = difference_interval([arm[None]], [other[None]])
    assert (1 - diff.p_at_most(-0.02) < 0.025) == (diff.high < -0.02)


def test_against_a_printed_row_it_is_unpaired_and_refuses_another_protocol(tmp_path):
    right = np.arange(500) < 317  # as many as printed
    write_eval(tmp_path / "mine", "math500", right, role="baseline", max_new_tokens=64)
    with pytest.raises(UserError) as error:
        gate.check([tmp_path / "mine"], "qwen")
    assert "table1.qwen.math500" in str(error.value)
    for difference in ("max_new_tokens: 64, printed: 8192", "prompt: r1, printed: cot"):
        assert difference in str(error.value)
    (row,) = gate.check([tmp_path / "mine"], "qwen", cross_protocol=True)
    assert row.difference.seeds == (1, 0) and row.difference.second == pytest.approx(0.634)
    assert row.difference.interval.half_width > 0.055 and row.verdict == "inconclusive"
    write_eval(tmp_path / "theirs", "math500", answers(0, skill=0.2), role="baseline", protocol="paper")
    (row,) = gate.check([tmp_path / "theirs"], "qwen")
    assert row.verdict == "regression"


@pytest.mark.parametrize(("args", "words"), [
    (["--against", "BASE"], "give either --model"),
    (["--records", "BASE", "--model", "x", "--against", "BASE"], "give either --model"),
    (["--records", "BASE", "--against", "BASE", "--limit", "3"], "--limit: says how a model is evaluated"),
    (["--records", "nowhere", "--against", "BASE"], "nowhere: no such folder"),
    (["--records", "BASE", "--against", "nowhere"], "neither a folder nor a row of Table 1; rows: qwen"),
    (["--records", "BASE"], "no baseline to hold it against"),
    (["--records", "BASE", "--against", "BASE", "--margin", "0"], "--margin 0"),
    (["--records", "BASE", "--against", "BASE", "--benchmarks", "math500"], "--benchmarks math500: not in all runs"),
    (["--records", "BASE", "--against", "BASE", "--benchmarks", ","], "names no benchmark"),
    (["--records", "BASE", "--against", "qwen"], "has no value for micro_chain, micro_table"),
    (["--model", "no/such", "--against", "BASE", "--benchmarks", "math500"], "has no value for it; it has micro_chain"),
])  # fmt: skip
def test_bad_input_writes_nothing(base, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    done = invoke("check", *[str(base) if a == "BASE" else a for a in args], "--out", tmp_path / "out")
    assert isinstance(done.exception, UserError) and words in str(done.exception), done.exception
    assert not (tmp_path / "out").exists()


def test_records_need_no_torch(base, tmp_path):
    """As a process: no torch is imported, and bad input ends with exit code 2 and one line."""
    code = (
        "import sys; from reproduce.cli import app\n"
        f"sys.argv = ['lmmr1', 'check', '--records', {str(base)!r}, '--against', {str(base)!r}, '--out', {str(tmp_path / 'o')!r}]\n"
        "try: app()\nexcept SystemExit as e: print('code', e.code, 'torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).endswith("code 0 False\n")
    bad = [sys.executable, "-m", "reproduce.cli", "check", "--records", str(tmp_path / "none"), "--against", str(base)]
    done = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------- comparing folders


def test_compare_pairs_by_item_whatever_the_order(base, tmp_path):
    canned.reorder(
        write_eval(tmp_path / "other", "micro_chain", worse(answers(0), 5)), np.random.default_rng(1).permutation(500)
    )
    write_eval(tmp_path / "same", "micro_chain", worse(answers(0), 5))
    got, want = (compare_folders(tmp_path / f, base, ["micro_chain"], False)[0] for f in ("other", "same"))
    assert got.interval == want.interval and got.interval.pairs.lost == 25 and got.interval.pairs.gained == 0


@pytest.mark.parametrize("ids", [[f"x{i}" for i in range(500)], [*range(499), 777]])
def test_other_items_are_refused(base, tmp_path, ids):
    folder = write_eval(tmp_path / "other", "micro_chain", answers(0))
    canned.change_rows(folder, lambda row: row.update(doc_id=ids[row["doc_id"]]))
    done = invoke("compare", tmp_path / "other", base, "--benchmarks", "micro_chain")
    assert isinstance(done.exception, UserError) and "other items than" in str(done.exception)


def test_other_protocols_are_refused_unless_allowed(base, tmp_path):
    folder = candidate(tmp_path, 0.4, max_new_tokens=32)
    done = invoke("compare", folder, base)
    assert isinstance(done.exception, UserError)
    assert "differ in decoding: " in str(done.exception) and "'max_new_tokens': 32" in str(done.exception)
    assert invoke("compare", folder, base, "--allow-cross-protocol").exit_code == 0
    assert isinstance(invoke("check", "--records", folder, "--against", base).exception, UserError)


def test_compare_prints_rules_verdicts_and_json(base, tmp_path):
    folder = candidate(tmp_path, 8)
    done = invoke("compare", folder, base)
    assert "lower" in done.output and rules().text() in done.output
    facts = json.loads(invoke("compare", folder, base, "--json").output)
    assert facts["rules"]["margin"] == 2.0 and [r["verdict"] for r in facts["rows"]] == ["lower"] * 3
    first = facts["rows"][0]
    assert first["discordance"] == pytest.approx(8.0) and first["p"] >= first["p_unadjusted"]


def test_shared_problems_widen_the_interval(tmp_path):
    """MathVerse: five versions of 788 problems, all versions of a problem answered alike, or as many at random."""
    rng = np.random.default_rng(3)
    old = np.repeat(rng.random(788) < 0.5, 5)
    new = old | np.repeat(rng.random(788) < 0.2, 5)
    mixed = rng.permutation(len(old))  # the same answers, on items that share nothing
    for name, of in (("alike", slice(None)), ("mixed", mixed)):
        for side, right in (("new", new), ("old", old)):
            write_eval(tmp_path / name / side, "mathverse", right[of])
    alike, mixed = (
        compare_folders(tmp_path / n / "new", tmp_path / n / "old", None, False)[0] for n in ("alike", "mixed")
    )
    assert alike.interval.mean == mixed.interval.mean
    assert alike.interval.half_width > 1.8 * mixed.interval.half_width
    for found in (alike, mixed):
        low, high = found.bootstrap
        assert (high - low) / 2 == pytest.approx(found.interval.half_width, rel=0.1)
    write_eval(tmp_path / "plain/new", "micro_chain", answers(0))
    write_eval(tmp_path / "plain/old", "micro_chain", answers(1))
    assert compare_folders(tmp_path / "plain/new", tmp_path / "plain/old", None, False)[0].bootstrap is None


def test_a_macro_average_is_compared_category_by_category(tmp_path):
    """MM-Star under the paper's protocol: 18 sub-categories of unequal size, each with a gain of its own."""
    problems = canned.planned("mmstar", "paper").measurement.prepared.problems
    names = np.array([p.category for p in problems])
    rng = np.random.default_rng(4)
    old = rng.random(1500) < 0.5
    gains = {name: k / 18 for k, name in enumerate(dict.fromkeys(names))}
    new = old | (rng.random(1500) < [gains[name] for name in names])
    for side, right in (("new", new), ("old", old)):
        write_eval(tmp_path / side, "mmstar", right, protocol="paper")
    (found,) = compare_folders(tmp_path / "new", tmp_path / "old", None, False)
    difference = new.astype(float) - old
    parts = [difference[names == name] for name in gains]
    assert found.interval.mean == pytest.approx(np.mean([part.mean() for part in parts]))
    error = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / len(
        parts
    )  # what differs between parts is none
    assert found.interval.half_width == pytest.approx(1.96 * error, rel=0.03)
    low, high = found.bootstrap
    assert (high - low) / 2 == pytest.approx(found.interval.half_width, rel=0.1)


def test_folders_of_several_shapes(tmp_path):
    write_eval(tmp_path / "flat", "micro_chain", answers(0))
    for seed in (0, 3):
        write_eval(tmp_path / f"arm/{seed}/eval", "micro_chain", answers(seed))
    assert list(folder_scores(tmp_path / "flat", "x").seed) == [0]
    assert list(folder_scores(tmp_path / "arm", "x").seed) == [0, 3]
    assert list(folder_scores(tmp_path / "arm/3", "x").seed) == [3]
    write_eval(tmp_path / "both/arm/0/eval", "micro_chain", answers(0))
    write_eval(tmp_path / "both/other/0/eval", "micro_chain", answers(0))
    with pytest.raises(UserError, match="is there twice"):
        folder_scores(tmp_path / "both", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no record\.json below it"):
        folder_scores(tmp_path / "empty", "x")


# ------------------------------------------------------------------------------------- verdicts and rules


def interval(mean: float, half: float, p: float = 1.0) -> Interval:
    return Interval(mean, mean - half, mean + half, p, (half / 1.96) ** 2, 0.0, 1e9)


@pytest.mark.parametrize(("mean", "half", "p", "word"), [
    (0.0, 0.019, 1.0, "reproduced"), (0.005, 0.014, 0.001, "reproduced"), (0.03, 0.02, 0.003, "higher"), (-0.03, 0.02, 0.003, "lower"),
    (0.03, 0.02, 0.06, "inconclusive"), (0.0, 0.05, 1.0, "inconclusive"), (0.0, 0.021, 1.0, "inconclusive"),
])  # fmt: skip
def test_words(mean, half, p, word):
    assert judge(interval(mean, half, p), p, 0.02, 500).word == word


def test_the_n_that_would_do_would_do():
    diff = interval(0.0, 0.05)
    n = needed_items(diff, 0.02, 500, 0.8)
    se = (diff.item_variance * 500 / n) ** 0.5
    draws = np.random.default_rng(0).normal(0, se, 100_000)
    assert (np.abs(draws) + 1.96 * se < 0.02).mean() == pytest.approx(0.8, abs=0.01)
    assert str(n)[:1] in judge(diff, 1.0, 0.02, 500).reason
    assert needed_items(Interval(0, -0.1, 0.1, 1, 1e-4, 1e-2, 5), 0.02, 500, 0.8) is None


def test_a_printed_value_and_a_measurement_differ_in_what(tmp_path):
    cell = registry().cell("table1.fre_text.mathverse")
    write_eval(tmp_path / "rule", "mathverse", answers(0, 500))
    write_eval(tmp_path / "paper", "mathverse", answers(0, 3940), protocol="paper")
    rule, paper = (taken_of(folder_scores(tmp_path / name, name).iloc[0]) for name in ("rule", "paper"))
    assert differences(rule, cell, ("n", "judge")) == [
        "n: 500, printed: 3940",
        "judge: none, printed: Qwen2.5-14B-Instruct (compare 0.6, extract 0)",
    ]
    assert differences(paper, cell, rules().must_match_score) == []
    assert differences(paper, cell, ("harness",)) == ["harness: vlmevalkit, printed: lmms-eval (the authors' fork)"]


def test_holm_runs_over_the_benchmarks_of_a_family(base, tmp_path):
    differences = compare_folders(candidate(tmp_path, 3), base, None, False)
    raw = [d.interval.p for d in differences]
    verdicts = verdicts_of(differences, rules())
    assert verdicts[2].p == raw[2]  # the average
    assert max(v.p for v in verdicts[:2]) >= max(raw[:2]) and min(v.p for v in verdicts[:2]) == pytest.approx(
        2 * min(raw[:2])
    )
    uncorrected = verdicts_of(differences, Rules(correction="none"))
    assert [v.p for v in uncorrected] == raw


def test_rules_are_checked(tmp_path):
    path = tmp_path / "rules.yaml"
    for text, words in (
        ("margin: -1\n", "margin"),
        ("margn: 2\n", "unknown key 'margn'"),
        ("must_match_gain: [colour]\n", "colour"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            load_rules(path)
    assert load_rules() == rules() and rules().margin_of("x") == 0.02
    assert Rules(margins={"gpqa_diamond": 5}).margin_of("gpqa_diamond") == 0.05


def test_published_comparison_uses_clusters_and_all_benchmarks(tmp_path):
    right = np.repeat(np.random.default_rng(1).random(788) < 0.6, 5)
    write_eval(tmp_path / "m", "math500", answers(0), role="baseline")
    write_eval(tmp_path / "m", "mathverse", right, role="baseline")
    found = compare_published(folder_scores(tmp_path / "m", "m"), "qwen", registry(), rules(), cross_protocol=True)
    assert [d.column for d in found] == ["math500", "mathverse", MEAN]
    assert found[2].second == pytest.approx((0.634 + 0.3464) / 2)
    per_problem = right.reshape(788, 5).mean(axis=1)
    assert found[1].interval.half_width > 1.96 * per_problem.std(ddof=1) / 788**0.5  # and the printed number's error
