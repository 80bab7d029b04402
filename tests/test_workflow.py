"""Contract: one command makes everything; nothing that costs time is made twice; a failure cannot look like a success.

The smoke profile runs for real, in a copy of the checkout.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.plan import Plan, alternatives
from tests.checkouts import snakemake

pytestmark = pytest.mark.slow
HEAVY = {"checkpoint", "train", "evaluate_arm", "evaluate_adopted", "evaluate_round", "evaluate_round_adopted",
         "play_scripted"}  # fmt: skip
EXPECTED_TRAININGS = {"smoke": 6, "micro": 30}


def planned(folder, *args):
    """Jobs per rule of a dry run, without the target rule itself."""
    done = snakemake(folder, "-n", *args)
    assert done.returncode == 0, done.stderr
    stats = re.search(r"^Job stats:\n.*?\n-+.*?\n(.*?)\ntotal", done.stdout, re.DOTALL | re.MULTILINE)
    jobs = dict(line.split()[:2] for line in stats.group(1).splitlines()) if stats else {}
    return {rule: int(n) for rule, n in jobs.items() if rule != "reproduce_all"}


@pytest.fixture(scope="session")
def finished(smoke_run, tmp_path_factory):
    """A copy of the finished smoke run that this module may change."""
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("finished") / "checkout", symlinks=True)


@pytest.mark.parametrize("profile", EXPECTED_TRAININGS)
def test_every_profile_resolves_to_a_complete_dag(checkout, profile):
    jobs = planned(checkout, "--config", f"profile={profile}", f"name=dry_{profile}")
    plan = Plan.load({"profile": profile})
    assert jobs["train"] == jobs["resolve_config"] == EXPECTED_TRAININGS[profile]
    assert jobs["checkpoint"] == jobs["adopt"] == 1
    assert jobs["scores"] == len(plan.arms) and jobs["page"] == jobs["table1"] == 1
    assert jobs["evaluate_arm"] + jobs["evaluate_adopted"] == len(plan.arms)  # one process each, whatever the harness


def test_targets_cover_everything_that_costs_time(checkout):
    """Otherwise a crashed job would be missed: Snakemake looks at targets and at inputs of jobs that run."""
    settings = "eval={protocols: [rule, vlmevalkit], prompts: [cot]}"  # no judge: the micro benchmarks are not judged
    done = snakemake(checkout, "-n", "--config", "profile=smoke", "name=targets", settings)
    assert {"evaluate_round", "evaluate_round_adopted"} <= set(re.findall(r"^rule (\w+):", done.stdout, re.MULTILINE))
    target = re.search(r"rule reproduce_all:\n\s+input: (.*)", done.stdout).group(1).split(", ")
    for job in re.finditer(r"rule (\w+):\n(?:\s+input: .*\n)?\s+output: (.*)", done.stdout):
        if job.group(1) in HEAVY - {"checkpoint"}:
            edges = [f for f in job.group(2).split(", ") if f.endswith(("manifest.json", "record.json"))]
            assert edges and set(edges) <= set(target), job.group(1)


def test_table_has_all_arms_and_benchmarks(finished):
    with (finished / "results/smoke/report/table1.csv").open() as f:
        rows = list(csv.DictReader(f))
    plan = Plan.load({"profile": "smoke"})
    assert {r["arm"] for r in rows} == set(plan.arms) >= {"baseline", "fre", "mgt_only", "two_stage", "random_reward"}
    assert {r["column"] for r in rows} >= set(plan.benchmarks) - set(plan.of_harness("agents"))
    assert len(rows) == len(plan.arms) * (7 + 2)


def test_table_3_has_all_arms_and_players_on_both_games(finished):
    with (finished / "results/smoke/report/paper_table3.csv").open() as f:
        rows = [r for r in csv.DictReader(f) if r["kind"] == "score" and r["measured"]]
    plan = Plan.load({"profile": "smoke"})
    wanted = {(arm, game) for arm in (*plan.arms, *plan.players) for game in plan.of_harness("agents")}
    assert {(r["arm"], r["column"]) for r in rows} == wanted and len(wanted) == 20
    of = {(r["arm"], r["column"]): float(r["measured"]) for r in rows}
    assert of["expert", "micro_sokoban"] == 100 > of["idle", "micro_sokoban"]
    page = (finished / "results/smoke/report/index.html").read_text()
    assert "Played levels" in page and page.count("data:image/webp;base64,") >= len(wanted)


def test_every_number_is_traceable_to_a_record(finished):
    with (finished / "results/smoke/report/table1.csv").open() as f:
        rows = [r for r in csv.DictReader(f) if r["column"].startswith("micro_")]
    for row in rows:
        values = []
        for record in row["records"].split(";"):
            (headline,) = [r for r in json.loads((finished / record).read_text()) if r["subset"] == "all"]
            manifest = json.loads((finished / record).parents[2].joinpath("manifest.json").read_text())
            assert headline["checkpoint"] == manifest["key"]
            samples = [json.loads(x) for x in (finished / record).with_name("samples.jsonl").read_text().splitlines()]
            assert sum(s["accuracy"] for s in samples) / len(samples) == pytest.approx(headline["value"])
            values.append(headline["value"])
        assert float(row["mean"]) == pytest.approx(sum(values) / len(values))


def test_two_stage_continues_the_fre_run_of_its_seed(finished):
    read = lambda arm: json.loads((finished / f"results/smoke/{arm}/0/manifest.json").read_text())
    assert read("two_stage")["parent"] == read("fre")["key"] != read("baseline")["key"]
    assert read("mgt_only")["parent"] == read("fre")["parent"] == read("baseline")["key"]
    assert read("two_stage")["config"] == read("mgt_only")["config"]
    assert read("two_stage")["data_sha256"] == read("mgt_only")["data_sha256"] != read("fre")["data_sha256"]


def test_sokoban_arms_share_their_stage_and_differ_in_their_start(finished):
    read = lambda arm: json.loads((finished / f"results/smoke/{arm}/0/manifest.json").read_text())
    assert read("mgt_sokoban")["parent"] == read("fre")["key"] != read("direct_rl_sokoban")["parent"]
    assert read("mgt_sokoban")["config"] == read("direct_rl_sokoban")["config"]
    assert read("mgt_sokoban")["data_sha256"] == read("direct_rl_sokoban")["data_sha256"] != read("fre")["data_sha256"]


def test_no_stage_trains_on_a_benchmark_item(finished):
    for card in (finished / "results/smoke/data").glob("*.card.json"):
        assert json.loads(card.read_text())["overlap_with_benchmarks"] == 0
    base = Path(json.loads((finished / "results/smoke/baseline/0/manifest.json").read_text())["weights"])
    assert json.loads((finished / base / "pretrain.json").read_text())["overlap_with_benchmarks"] == 0


def test_report_is_there_and_self_contained(finished):
    page = (finished / "results/smoke/report/index.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?:""", page)
    for name in ("table1.md", "table1.tex", "arms.svg", "arms.png", "curves.svg", "curves.png"):
        assert (finished / "results/smoke/report" / name).stat().st_size > 500, name


def test_evidence_is_there(finished):
    report = finished / "results/smoke/report"
    for name in (
        "paper_table1.md",
        "paper_table2.csv",
        "paper_table3.tex",
        "forest.svg",
        "power.png",
        "seeds.svg",
        "subsets.png",
    ):
        assert (report / name).stat().st_size > 500, name
    with (report / "paper_table1.csv").open() as f:
        assert {r["verdict"] for r in csv.DictReader(f)} == {"not comparable"}  # the paper has no micro benchmark


def test_check_is_the_gate(finished):
    """The workflow's `check` writes what `lmmr1 check` would, and fails just where that would."""
    done = snakemake(finished, "check", "--config", "profile=smoke")
    facts = json.loads((finished / "results/smoke/check/check.json").read_text())
    assert (done.returncode == 0) == (facts["exit_code"] == 0)
    assert {r["candidate"] for r in facts["rows"]} == {
        f"results/smoke/{a}" for a in Plan.load({"profile": "smoke"}).trained
    }
    arguments = ["check", "--records", "results/smoke/fre", "--against", "results/smoke/baseline", "--out", "again"]
    environment = os.environ | {"PYTHONPATH": str(finished)}
    command = [sys.executable, "-m", "reproduce.cli", *arguments]
    alone = subprocess.run(command, cwd=finished, env=environment, capture_output=True, text=True, check=False)
    again = json.loads((finished / "again/check.json").read_text())
    assert alone.returncode == again["exit_code"]
    differences = {r["benchmark"]: r["difference"] for r in facts["rows"] if r["candidate"] == "results/smoke/fre"}
    assert differences == {r["benchmark"]: r["difference"] for r in again["rows"]}


def test_a_second_run_has_nothing_to_do(finished):
    done = snakemake(finished, "--config", "profile=smoke")
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_snakemake_report_works(finished):
    done = snakemake(finished, "--config", "profile=smoke", "--report", "report.zip")
    assert done.returncode == 0, done.stderr
    assert (finished / "report.zip").stat().st_size > 10_000


def test_arms_of_both_trainers_land_in_one_table(finished):
    """The base and our own arms are found in the store; TRL's arms train the same data for real."""
    pytest.importorskip("trl")
    arms = ["baseline", "fre", "fre_trl", "mgt_only", "mgt_only_trl"]
    chosen = (f"arms=[{','.join(arms)}]", "benchmarks=[micro_chain,micro_count]")
    done = snakemake(finished, "--config", "profile=smoke", "name=both", *chosen)
    logs = "\n".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in finished.glob("results/both/logs/train*.log"))
    assert done.returncode == 0, done.stderr[-3000:] + logs
    with (finished / "results/both/report/table1.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert list(dict.fromkeys(r["arm"] for r in rows)) == arms and len(rows) == 5 * (2 + 2)
    data = lambda stage: [
        json.loads(x) for x in (finished / f"results/both/data/{stage}.jsonl").read_text().splitlines()
    ]
    for ours, theirs, stage, twin in (
        ("fre", "fre_trl", "fre", "fre_trl"),
        ("mgt_only", "mgt_only_trl", "mgt", "mgt_trl"),
    ):
        steps = [
            [json.loads(x) for x in (finished / f"results/both/{arm}/0/steps.jsonl").read_text().splitlines()]
            for arm in (ours, theirs)
        ]
        assert [s["step"] for s in steps[0]] == [s["step"] for s in steps[1]] == [1, 2, 3]
        assert [s["learning_rate"] for s in steps[0]] == pytest.approx([s["learning_rate"] for s in steps[1]])
        assert [(r["id"], r["answer"]) for r in data(stage)] == [(r["id"], r["answer"]) for r in data(twin)]
        card = json.loads((finished / f"results/both/{theirs}/0/manifest.json").read_text())
        assert card["config"]["trainer"] == "trl" and card["versions"]["trl"]


@pytest.mark.parametrize("file", ["reports/plots.py", "reports/tables.py"])
def test_editing_a_table_or_plot_runs_nothing_that_costs_time(finished, file):
    path = finished / file
    text = path.read_text()
    path.write_text(text + "\n# edited\n")
    try:
        jobs = planned(finished, "--config", "profile=smoke")
    finally:
        path.write_text(text)
    assert {"table1", "plot_arms", "page"} <= jobs.keys()
    assert not HEAVY & jobs.keys()


def test_editing_a_stage_trains_what_uses_it_only(finished):
    path = finished / "reproduce/stages.yaml"
    text = path.read_text()
    path.write_text(text.replace("mgt:                       #", "mgt:\n  train: {learning_rate: 1.0e-4}  #", 1))
    try:
        done = snakemake(finished, "-n", "--config", "profile=smoke")
    finally:
        path.write_text(text)
    trained = set(re.findall(r"rule train:\n(?:\s+input: .*\n)?\s+output: results/smoke/(\w+)/0/", done.stdout))
    assert trained == {"mgt_only", "two_stage"}


def test_new_numerics_train_everything_anew(finished):
    path = finished / "lmmr1/__init__.py"
    text = path.read_text()
    path.write_text(re.sub(r"^NUMERICS = .*", "NUMERICS = 99", text, flags=re.MULTILINE))
    try:
        assert planned(finished, "--config", "profile=smoke")["train"] == EXPECTED_TRAININGS["smoke"]
    finally:
        path.write_text(text)


def test_a_crashed_training_leaves_no_green_report(finished):
    """A learning rate that makes weights overflow is a real failure of a real run."""
    crash = ("--config", "profile=smoke", "train={learning_rate: 1.0e+38, warmup_steps: 0}")
    done = snakemake(finished, *crash)
    try:
        assert done.returncode != 0
        logs = [p.read_text() for p in (finished / "results/smoke/logs").glob("train_*.log")]
        assert any("error: step" in text and "not finite" in text for text in logs)
        assert not (finished / "results/smoke/report/index.html").exists()
        assert (finished / "results/smoke/report/index.stale.html").exists()
        assert "train" in planned(finished, *crash)
        assert planned(finished, "--config", "profile=smoke")  # the good settings have work to do too
    finally:
        again = snakemake(finished, "--config", "profile=smoke")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (finished / "results/smoke/report/index.html").exists()


def test_faults_lose_nothing(finished):
    """A small, seeded part of the campaign (`make faults`): kills and damage at the cheap stages and in training."""
    stages = ["training", "prompts", "scores", "tables"]
    command = [sys.executable, "-m", "faults", "--reference", str(finished), "--share", "0.12", "--stages", *stages]
    # the copy's own packages, as in the run that is broken: manifests say at which commit they were made
    paths = os.pathsep.join([str(finished), str(Path(__file__).resolve().parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=finished, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "**0 artefacts lost or silently wrong.**" in done.stdout


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (["profile=mirco"], "unknown profile 'mirco'"),
        (["profile=smoke", "colour=red"], "unknown key 'colour'"),
        (["profile=smoke", "arms=[fer]"], "unknown name 'fer'"),
        (["profile=smoke", "name=a b; touch x"], "name: String should match pattern"),
        (["profile=smoke", "eval={protocols: [papr]}"], "unknown protocol 'papr'"),
        (["profile=cluster"], "key eval.judge: protocol paper asks a judge about mathvision"),
    ],
)
def test_bad_config_ends_snakemake_with_one_line_and_code_2(checkout, config, words):
    done = snakemake(checkout, "-n", "--config", *config)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and words in errors[0]
    assert "Traceback" not in done.stderr


def test_values_with_blanks_and_quotes_reach_the_jobs_whole(checkout):
    """Paths come from the configuration; a shell must not read them."""
    settings = {"data_root": "my data; exit 9", "levels": "it's $HOME"}
    done = snakemake(checkout, "-n", "-p", "--config", "profile=smoke", "name=odd", f"eval={json.dumps(settings)}")
    (command,) = re.findall(r"^Shell command: (.*evals\.run.*results/odd/baseline.*)$", done.stdout, re.MULTILINE)
    words = shlex.split(command)
    assert words[words.index("--data-root") + 1] == settings["data_root"]
    assert words[words.index("--levels") + 1] == settings["levels"]


def test_alternatives():
    assert re.fullmatch(alternatives(["a.b", "c"]), "a.b") and not re.fullmatch(alternatives(["a.b"]), "axb")
    assert not re.fullmatch(alternatives([]), "") and not re.fullmatch(alternatives([]), "a")
