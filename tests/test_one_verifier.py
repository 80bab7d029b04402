"""Contract: an answer has one verdict. `lmmr1 verify`, `lmmr1 score`, `lmmr1 audit` and the reward of training give the
same for every golden pair, and the kinds of faults that users met stay mended through the command they met them in."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from evals.audit import judge
from evals.importers import read_answers
from evals.problems import Problem
from evals.samples import write_samples
from evals.scoring import sample_row, score_response
from lmmr1.config import RewardConfig, SamplingConfig
from lmmr1.exits import run_cli
from lmmr1.rewards import score, verifier_pool
from lmmr1.types import Rollout, Sample
from reproduce import cli
from tests.test_verifier import DATA, GOLDEN

CASES = Path(os.environ.get("LMMR1_CASES", DATA.parent / "cases"))
KINDS = {
    "01-tiny-numbers": "tiny and huge numbers", "06-number-base": "number bases", "07-markdown": "markdown",
    "09-named-lists": "named lists and values",
}  # fmt: skip
"""Folder of a reported fault, and the category of tests/golden/verifier_pairs_kinds.jsonl that holds others of its kind."""


@pytest.fixture(scope="module")
def pairs():
    names = ("verifier_pairs.jsonl", "verifier_pairs_kinds.jsonl", "verifier_pairs_reported.jsonl")
    return [json.loads(line) for name in names for line in (GOLDEN / name).read_text().splitlines()]


@pytest.fixture
def command(monkeypatch, capsys):
    """command(*args): exit code, standard output and standard error of `lmmr1`."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["lmmr1", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            run_cli(cli.cli)
        return stop.value.code or 0, *capsys.readouterr()

    return run


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def verified(command, path) -> list[bool]:
    code, out, err = command("verify", "--pairs", path)
    assert code == 0, err
    return [json.loads(line)["accuracy"] == 1 for line in out.splitlines()]


def differing(pairs, verdicts, others) -> list[dict]:
    return [pair for pair, one, other in zip(pairs, verdicts, others, strict=True) if one != other]


@pytest.fixture
def verify(command, pairs, tmp_path):
    """What `lmmr1 verify` says of every pair, as the command reads them from a file."""
    found = verified(command, write(tmp_path / "pairs.jsonl", pairs))
    assert found == [pair["accuracy"] == 1 for pair in pairs] and len(found) > 1500
    return found


def test_verify_and_score_agree(command, pairs, verify, tmp_path):
    shown = [bool(pair["gold"].strip()) for pair in pairs]  # a benchmark has no problem without an answer
    problems = [
        {"id": str(i), "answer": pair["gold"], "options": pair.get("choices", []), "subject": "all", "level": 1}
        for i, pair in enumerate(pairs)
    ]
    predictions = [{"id": str(i), "response": p["response"], "correct": False} for i, p in enumerate(pairs)]
    write(tmp_path / "mathvision" / "test.jsonl", [row for row, use in zip(problems, shown, strict=True) if use])
    write(tmp_path / "p.jsonl", [row for row, use in zip(predictions, shown, strict=True) if use])
    out = tmp_path / "paid.jsonl"
    where = ["--predictions", tmp_path / "p.jsonl", "--data-root", tmp_path, "--disagreements", out]
    code, _, err = command("score", *where, "--scorer", "math_verify")
    assert code == 0, err
    paid = {json.loads(line)["id"] for line in out.read_text().splitlines()}  # all labels say wrong
    assert sum(shown) > 1500
    assert not differing(pairs, [use and one for use, one in zip(shown, verify, strict=True)],
                         [str(i) in paid for i in range(len(pairs))])  # fmt: skip


@pytest.mark.parametrize("choices", [True, False])
def test_verify_and_audit_agree(pairs, verify, tmp_path, choices):
    """The rows are those that an evaluation writes; `audit` judges their responses anew."""
    chosen = [i for i, pair in enumerate(pairs) if ("choices" in pair) is choices]
    rows = []
    for number, i in enumerate(chosen):
        gold, response, options = pairs[i]["gold"], pairs[i]["response"], tuple(pairs[i].get("choices", ()))
        problem = Problem(str(i), f"question {i}", gold, "c", choices=options)
        mark = score_response(response, gold, options)
        rows.append(sample_row(number, problem, f"hash-{i}", Rollout(str(i), (1,), (0.0,), response, "stop"), mark))
    (tmp_path / "run").mkdir()
    write_samples(tmp_path / "run" / "samples.jsonl", rows)
    write(tmp_path / "run" / "record.json", [[{"benchmark": "micro_chain"}]])
    answers = read_answers([tmp_path / "run"])
    verdicts, _ = judge("micro_chain", answers, 1, (), lambda marks, *_: marks)
    wanted = [verify[int(answer.item.id)] for answer in answers]
    assert len(wanted) == len(chosen) > 50
    own = [name for name, marks in verdicts.items() if name == "math_verify" or marks[0].note == "stored"]
    assert len(own) == 2  # judged anew, and as the evaluation wrote it
    for name in own:
        assert not differing([pairs[i] for i in chosen], wanted, [mark.correct for mark in verdicts[name]]), name


def test_verify_and_the_reward_agree(pairs, verify):
    """Prompts for training hold their options in words alone; all other pairs are judged as they stand."""
    chosen = [i for i, pair in enumerate(pairs) if "choices" not in pair]
    samples = tuple(Sample(str(i), [{"role": "user", "content": "?"}], (), pairs[i]["gold"]) for i in chosen)
    rollouts = [(Rollout(str(i), (1, 2), (0.0, 0.0), pairs[i]["response"], "stop"),) for i in chosen]
    cfg = RewardConfig(verifier_workers=1)
    with verifier_pool(cfg) as pool:
        groups = score(samples, rollouts, cfg, SamplingConfig(), pool, (0,))
    found = [group.rewards[0].accuracy == 1 for group in groups]
    assert len(found) > 1400 and not differing([pairs[i] for i in chosen], [verify[i] for i in chosen], found)


@pytest.mark.parametrize("case", KINDS)
def test_reported_faults_stay_mended(command, case):
    path = CASES / case / "pairs.jsonl"
    if not path.exists():
        pytest.skip("the reported inputs are not part of the repository")
    wanted = [json.loads(line)["expect"] == 1 for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert verified(command, path) == wanted


@pytest.mark.parametrize("kind", KINDS.values())
def test_others_of_the_same_kind(command, tmp_path, kind):
    """Held by the repository itself, so also where the reported inputs are not at hand."""
    rows = [json.loads(line) for line in (GOLDEN / "verifier_pairs_kinds.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["category"] == kind]
    assert min(Counter(row["accuracy"] for row in rows).values()) >= 4
    assert verified(command, write(tmp_path / "pairs.jsonl", rows)) == [row["accuracy"] == 1 for row in rows]
