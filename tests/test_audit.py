"""Contract: the same answers under every scorer; other harnesses' scorers are their own code, bounded, and never run a
model's text; a gain is said to exist under a scorer only where its test says so."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

from evals.audit import _check_golds, _sign_test, audit, disagreements
from evals.importers.stored import StoredAnswer
from evals.samples import Doc, SampleRow
from evals.scorers import stock
from evals.scorers.items import Item
from lmmr1.exits import run_cli
from lmmr1.types import UserError
from reproduce import cli
from tests.hostile import canaries
from tests.test_importers import lm_eval_file, lm_eval_samples, own_file

DATA = Path(os.environ.get("LMMR1_DATA", "../shared/data"))
needs_math500 = pytest.mark.skipif(not (DATA / "math500").is_dir(), reason="no LMMR1_DATA/math500")
HENDRYCKS, MINERVA, VERIFY = "lm_eval_hendrycks", "lm_eval_minerva", "lm_eval_minerva_verify"


def answer(arm: str, id: str, gold: str, text: str, benchmark="x", run="", stored=None, **more) -> StoredAnswer:
    row = SampleRow(doc_id=id, doc=Doc(id=id), target=gold, resps=((text,),), **more)
    return StoredAnswer(benchmark, arm, run, row, stored or {})


def answers(arm: str, rows, benchmark="math500", run="", **more) -> list[StoredAnswer]:
    """Answers of one run from (gold, response) pairs; ids are row numbers."""
    return [answer(arm, str(i), *pair, benchmark, run, **more) for i, pair in enumerate(rows)]


def only(given, **more):
    ((result, differing),) = audit(given, **more)
    return result, differing


def rates(result, arm: str) -> dict[str, int]:
    return {cell.scorer: cell.right for cell in result.cells if cell.arm == arm}


@pytest.fixture(scope="module")
def stock_notes():
    """stock_notes(rows, *names): scorer -> note of each row (item, response); one worker for all tests."""
    with stock.stock_scorers("none", 1, list(stock.STOCK)) as (found, _):
        by_name = {scorer.name: scorer for scorer in found}
        yield lambda rows, *names: {name: [mark.note for mark in by_name[name].judge(rows)] for name in names}


# ------------------------------------------------------------------------------------------------- stock scorers


def test_lm_evals_own_scorers_for_math500(stock_notes):
    texts = [
        "\\boxed{4}", "The answer is $4$", "so $x=4$ and $y=2$, \\boxed{4}",
        "Final Answer: The final answer is $\\frac{8}{2}$. I hope it is correct.", "4", "it is 8/2",
    ]  # fmt: skip
    found = stock_notes([(Item("", "4"), text) for text in texts], HENDRYCKS, MINERVA, VERIFY)
    assert found[HENDRYCKS] == ["no_answer", "equal", "different", "different", "equal", "no_answer"]
    assert found[MINERVA] == ["no_answer", "no_answer", "no_answer", "equal", "no_answer", "no_answer"]
    assert found[VERIFY] == ["equal", "equal", "equal", "equal", "equal", "different"]


def test_lm_evals_own_filters_for_gpqa(stock_notes):
    texts = ["The answer is (B).", "I choose (B)", "$\\boxed{B}$", "The answer is (A)."]
    rows = [(Item("", "B", ("cat", "dog")), text) for text in texts]
    strict, flexible = stock_notes(rows, "lm_eval_gpqa_strict", "lm_eval_gpqa_flexible").values()
    assert strict == ["equal", "no_answer", "no_answer", "different"]
    assert flexible[:2] == ["equal", "equal"] and flexible[3] == "different"


def test_vlmevalkits_own_rules(stock_notes):
    rows = [(Item("", "B", ("cat", "dog")), text) for text in ("B", "(B) dog", "a dog", "A or B")]
    assert stock_notes(rows, "vlmevalkit_matching")["vlmevalkit_matching"] == ["equal", "equal", "equal", "no_answer"]
    loose = Item("", "2.5", answer_type="Numerical", error="1e-1")
    tight = Item("", "2.5", answer_type="Numerical")
    text = "So the final answer is \\boxed{2.55}"
    rows = [(loose, text), (tight, text), (tight, "hm")]
    assert stock_notes(rows, "vlmevalkit_judge")["vlmevalkit_judge"] == ["equal", "different", "no_answer"]


def test_canaries_are_never_run_by_stock_scorers(stock_notes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    texts = canaries(canary)
    assert len(texts) > 10
    rows = [(Item("", "2"), f"Final Answer: The final answer is ${text}$. I hope it is correct.") for text in texts]
    stock_notes(rows, HENDRYCKS, MINERVA, VERIFY, "vlmevalkit_judge")
    stock_notes([(Item("", "B", (text, "dog")), text) for text in texts[:3]], *sorted(stock.CHOOSING))
    assert not canary.exists() and not list(tmp_path.iterdir())


def test_the_process_of_the_stock_scorers_refuses_to_run_text():
    from evals.scorers.stock_worker import _refuse_code

    for source in (b"__import__('os')", b"Integer (2 )**Integer (3 )", b"1+1", None):
        with pytest.raises(PermissionError):
            _refuse_code("compile", (source, "<string>"))
    for source in (b"Integer (2 )", b"Float ('2.5' )", b"from sympy import *"):
        _refuse_code("compile", (source, "<string>"))
    _refuse_code("compile", (b"import os", "/lib/module.py"))
    _refuse_code("open", ("x",))


def test_monsters_end_and_the_next_answer_is_judged(monkeypatch):
    monkeypatch.setattr(stock, "DEADLINE", 2.0)
    wrap = "Final Answer: The final answer is ${}$. I hope it is correct."
    rows = [(Item("", "3"), wrap.format(text)) for text in ("2^{30^5}", "9^{9^{9^9}}", "\\frac{6}{2}")]
    with stock.stock_scorers("none", 1, [MINERVA]) as (found, _):
        notes = [mark.note for mark in next(s for s in found if s.name == MINERVA).judge(rows)]
    assert set(notes[:2]) <= {"timeout", "memory", "crashed", "no_answer", "different"} and notes[2] == "equal"


# ------------------------------------------------------------------------------------------- the known failure


@needs_math500
def test_the_stock_rule_makes_a_gain_out_of_dollar_signs(tmp_path, capsys, monkeypatch):
    """Real MATH-500 golds: both arms solve the same 12 of 20, one boxes its answers, the other puts them between $."""
    golds = [row["answer"] for row in json.loads((DATA / "math500" / "math500.json").read_text())]
    golds = [gold for gold in golds if "$" not in gold][:20]
    wrong = "12345677"
    boxed = [(f"{i}", g, f"We get $x$, hence \\boxed{{{g if i < 12 else wrong}}}") for i, g in enumerate(golds)]
    dollars = [
        (f"{i}", g, f"<think>so</think><answer>${g if i < 12 else wrong}$</answer>") for i, g in enumerate(golds)
    ]
    lm_eval_file(tmp_path, "base", lm_eval_samples(boxed))
    lm_eval_file(tmp_path, "trained", lm_eval_samples(dollars))
    assert (
        run(
            monkeypatch,
            "audit",
            str(tmp_path),
            "--baseline",
            "base",
            "--workers",
            "1",
            "--json",
            "--out",
            str(tmp_path / "out"),
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)["math500"]
    right = {(c["arm"], c["scorer"]): c["right"] for c in result["cells"]}
    assert right["base", "math_verify"] == right["trained", "math_verify"] == 12
    assert (right["base", HENDRYCKS], right["trained", HENDRYCKS]) == (0, 12)
    assert all(right[arm, "stored:exact_match"] == right[arm, HENDRYCKS] for arm in ("base", "trained"))
    assert result["verdicts"]["trained"]["gain"] == f"some: {HENDRYCKS}, stored:exact_match"
    gain = next(g for g in result["gains"] if g["scorer"] == HENDRYCKS)
    assert gain["gain"] == pytest.approx(0.6) and gain["p"] < 0.001 and gain["interaction_p"] < 0.001
    rows = [json.loads(line) for line in (tmp_path / "out" / "disagreements.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows if row["arm"] == "base" and not row["verdicts"][HENDRYCKS]} >= {"0", "11"}
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["math500"] == result


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lmmr1", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_cli(cli.cli)
    return caught.value.code or 0


# ------------------------------------------------------------------------------------------------------- gains

A, B = "<answer>1</answer>", "<answer>2</answer>"


def test_gains_of_several_runs_need_every_run():
    rows = [("1", B)] * 20 + [("1", A)] * 20
    better = [("1", A)] * 40
    base = answers("baseline", rows, "x")
    both, _ = only(base + answers("arm", better, "x", "0") + answers("arm", better, "x", "1"))
    one, _ = only(base + answers("arm", better, "x", "0") + answers("arm", rows, "x", "1"))
    gains = [next(g for g in r.gains if g.scorer == "math_verify") for r in (both, one)]
    assert [(g.gain, g.direction) for g in gains] == [(0.5, 1), (0.25, 0)]
    assert gains[0].p == pytest.approx(2 * 0.5**20) and gains[1].p == 1
    assert (both.verdict("arm", 1), both.verdict("arm", -1), one.verdict("arm", 1)) == ("all", "none", "none")


def test_a_scorer_that_sees_no_answer_anywhere_has_no_part_in_the_verdict():
    given = answers("baseline", [("1", B)] * 20, "x") + answers("arm", [("1", A)] * 20, "x")
    result, differing = only(given)
    assert result.blind == ("released_verifier",) and result.verdict("arm", 1) == "all"
    assert {gain.scorer for gain in result.gains} == {"math_verify"} and not differing
    assert any("released_verifier finds no answer in any response" in note for note in result.notes)


def test_stored_verdicts_are_a_scorer_and_the_confusion_counts_every_pair():
    stored = [True, True, False, False]
    base = [
        answer("m", str(i), "1", text, stored={"stored:judge": right})
        for i, (text, right) in enumerate(zip([A, B, A, B], stored, strict=True))
    ]
    result, differing = only(base)
    pair = next(p for p in result.pairs if (p.first, p.second) == ("math_verify", "stored:judge"))
    assert (pair.both, pair.only_first, pair.only_second, pair.neither) == (1, 1, 1, 1)
    cell = next(c for c in result.cells if c.scorer == "stored:judge")
    assert (cell.right, cell.only_here, cell.only_ours) == (2, 1, 1)
    assert [row["id"] for row in differing] == ["1", "2"]


def test_what_makes_a_comparison_doubtful_is_noted():
    base = answers("baseline", [("1", A)] * 10, "x", finish="stop", prompt_hash="p")
    arm = answers("arm", [("1", "")] * 10, "x", finish="length", prompt_hash="q")
    result, _ = only(base + arm)
    said = "\n".join(result.notes)
    assert "100.0 % of the answers of arm were cut off" in said
    assert "math_verify finds no answer in 100.0 % of arm and in 0.0 % of baseline" in said
    assert "arm was asked other prompts than baseline on 10 items" in said
    assert [(f.arm, f.truncated, f.with_finish) for f in result.arms] == [("baseline", 0, 10), ("arm", 10, 10)]


def test_only_items_that_both_answered_are_compared():
    base = answers("baseline", [("1", B)] * 8, "x")
    result, _ = only(base + answers("arm", [("1", A)] * 20, "x"))
    gain = next(g for g in result.gains if g.scorer == "math_verify")
    assert (gain.items, gain.gain) == (8, 1.0)
    apart = [answer("arm", "other", "1", A)]
    assert only(base + apart)[0].gains == ()


@given(st.lists(st.sampled_from([-1, 0, 1])))
def test_the_sign_test_is_mcnemars(changes):
    rises, falls = changes.count(1), changes.count(-1)
    expected = mcnemar([[0, rises], [falls, 0]], exact=True).pvalue if rises + falls else 1.0
    own = {str(i): change for i, change in enumerate(changes)}
    assert _sign_test(own, {}) == pytest.approx(expected, abs=1e-12)
    assert _sign_test({id: -c for id, c in own.items()}, {}) == pytest.approx(_sign_test(own, {}))


def test_the_sign_test_of_the_interaction_ignores_ties():
    changes = dict(zip("abcdef", [2, 1, 1, 0, 0, 0], strict=True))
    assert _sign_test(changes, {}) == pytest.approx(binomtest(3, 3).pvalue)


def test_versions_of_one_problem_count_as_one_in_the_sign_test():
    """Five versions that rise together say as much as one: nothing."""
    rise = {str(i): 1 for i in range(10)}
    assert _sign_test(rise, {}) < 0.01
    assert _sign_test(rise, {id: f"problem {int(id) // 5}" for id in rise}) == pytest.approx(binomtest(2, 2).pvalue)


# ------------------------------------------------------------------------------------------------------- command


@pytest.mark.skipif(not (DATA / "mathvision" / "outputs").is_dir(), reason="no LMMR1_DATA/mathvision/outputs")
def test_the_command_on_released_outputs_of_mathvision(tmp_path, capsys, monkeypatch):
    for model in ("Gemini-Pro-CoT", "InternLM-XComposer2-VL"):  # the first 300 rows of each
        lines = (DATA / "mathvision" / "outputs" / f"{model}.jsonl").read_text(encoding="utf-8").splitlines()[:300]
        (tmp_path / f"{model}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert run(monkeypatch, "audit", str(tmp_path), "--data-root", str(DATA)) == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in (
        "mathvision, gains against Gemini-Pro-CoT",
        "mathvision_official",
        "stored:correct",
        "released_verifier",
    ):
        assert text in said
    assert "VLMEvalKit's rule for MathVision is not called: it runs eval() on the model's text." in said


def test_the_command_on_arms_of_this_suite(tmp_path, capsys, monkeypatch):
    for arm, text in (("baseline", B), ("fre", A)):
        rows = [(f"i{i}", "1", text) for i in range(12)]
        own_file(tmp_path / "p" / arm / "0" / "eval" / "micro_chain", rows)
    assert run(monkeypatch, "audit", str(tmp_path)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "micro_chain fre +100.00 +100.00 all none" in said and "\x1b" not in said


def test_hostile_names_and_answers_do_not_reach_the_terminal(tmp_path, capsys, monkeypatch):
    rows = [("[red]\x1b[31mi", "1", "\x1b[2J[/bold] $x$")]
    own_file(tmp_path / "a\x1b[31m[bold]m" / "micro_chain", rows)
    assert run(monkeypatch, "audit", str(tmp_path)) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--baseline", "nobody"], "--baseline: no answers of 'nobody'; there are answers of out"),
        (["--also", "sympy"], "--also: there is no stock scorer 'sympy'; allowed: lm_eval_hendrycks"),
        (["--out", "FILE"], "is not a folder"),
    ],
)
def test_bad_arguments(tmp_path, capsys, monkeypatch, arguments, said):
    file = own_file(tmp_path / "out" / "micro_chain", [("a", "1", A)])
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    assert run(monkeypatch, "audit", str(tmp_path), *given) == 2
    assert said in capsys.readouterr().err


def test_different_golds_for_one_item_are_refused():
    with pytest.raises(UserError, match="the files are not of the same problems"):
        list(audit(answers("baseline", [("1", A)], "x") + answers("arm", [("2", A)], "x")))


def test_options_in_another_order_are_the_same_problem_and_other_options_are_not():
    def answer(arm, target, *choices):
        row = SampleRow(doc_id=0, doc=Doc(id="q", choices=choices), target=target, resps=(("B",),))
        return StoredAnswer("gpqa_diamond", arm, "", row)

    one, two = answer("baseline", "A", "cat", "big  dog"), answer("arm", "B", "big dog", "cat")
    _check_golds("gpqa_diamond", [one, two])
    with pytest.raises(UserError, match="not of the same problems"):
        _check_golds("gpqa_diamond", [one, answer("arm", "A", "big dog", "cat")])


def test_disagreements_need_two_verdicts():
    assert disagreements(answers("m", [("1", A)]), {"one": [None]}) == []
