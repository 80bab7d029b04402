"""Contract: `lmmr1 bundle report` makes every file of the report again from the records, and touches nothing else.

A real run of the smoke profile, with prompt styles, in a copy of the checkout.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmmr1.types import UserError
from reproduce.again import _File, _reporting
from tests.checkouts import snakemake

REPORT = Path("results/smoke/report")


@pytest.fixture(scope="module")
def run(smoke_run, tmp_path_factory):
    """A copy of the smoke run, its report narrowed to two arms and widened by a prompt style."""
    folder = shutil.copytree(smoke_run, tmp_path_factory.mktemp("again") / "checkout", symlinks=True)
    done = snakemake(folder, "--config", "profile=smoke", "arms=[baseline,fre]", "eval={prompts: [none]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def report_again(folder):
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reproduce.cli", "bundle", "report", "results/smoke", "--cores", "2"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def contents(folder):
    """{file: bytes} below results/ without logs."""
    files = (p.relative_to(folder) for p in sorted((folder / "results").rglob("*")) if p.is_file())
    return {file: (folder / file).read_bytes() for file in files if file.parts[2] != "logs"}


def derived(files):
    """The files of the report, with the seals of its tables: nothing in them is measured."""
    arms = [*(f"results/smoke/{name}" for name in ("idle", "chance", "expert", "baseline", "fre"))]
    arms += [f"results/smoke/prompts/none/{arm}" for arm in ("baseline", "fre")]
    tables = {Path(arm, name) for arm in arms for name in ("scores.csv", ".scores.csv.sha256")}
    return tables | {file for file in files if file.is_relative_to(REPORT)}


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "world"), [("tampered", "micro"), ("deleted", "paper")])
def test_every_file_of_the_report_is_made_again_and_nothing_else(run, harm, world):
    """World paper: this machine could not run such a profile, and need not, to report on one."""
    before = contents(run)
    report = derived(before)
    assert report <= before.keys() and {"quality.md", "prompts.md"} <= {f.name for f in report}
    for file in report:
        if harm == "deleted":
            (run / file).unlink()
        else:
            (run / file).write_bytes(before[file][:-9] + b"tampered\n")
    profile = run / "results/smoke/profile.json"
    profile.write_text(json.dumps({**json.loads(profile.read_text()), "world": world}))
    times = {file: (run / file).stat().st_mtime_ns for file in before if file not in report}
    done = report_again(run)
    profile.write_bytes(before[Path("results/smoke/profile.json")])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    after = contents(run)
    assert after.keys() == before.keys()
    assert [str(file) for file in before if before[file] != after[file]] == []
    changed = {file for file in times if (run / file).stat().st_mtime_ns != times[file]}
    assert changed == {Path("results/smoke/profile.json")}


@pytest.mark.slow
def test_a_missing_record_is_named_and_not_measured_again(run):
    record = run / "results/smoke/prompts/none/fre/0/eval/micro_chain/record.json"
    kept = record.read_bytes()
    record.unlink()
    done = report_again(run)
    there = record.exists()
    record.write_bytes(kept)
    assert done.returncode == 2 and not there, done.stdout + done.stderr
    said = f"cannot be made again, {record.relative_to(run)} is missing"
    assert f"error: results/smoke: {said}" in done.stderr


def test_a_rule_that_reports_and_measures_is_refused():
    files = [
        _File("results/x/fre/0/manifest.json", "train", False),
        _File("results/x/fre/scores.csv", "scores", False),
        _File("results/x/prompts/none/fre/scores.csv", "scores", True),
        _File("results/x/report/new/table.csv", "later", True),
        _File("results/y/report/table.csv", "other", False),
    ]
    assert _reporting(files, Path("results/x/report")) == ["scores", "later"]
    files.append(_File("results/x/fre/0/eval/b/record.json", "scores", False))
    with pytest.raises(UserError, match=r"rule scores: writes .*scores.csv and .*record.json"):
        _reporting(files, Path("results/x/report"))
