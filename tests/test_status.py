"""Contract: `lmmr1 status` says of every job whether it is finished, running, stopped, failed, waiting or missing, from
the files alone, and adds up what is left."""

import json
import os
import time

import pytest
from typer.testing import CliRunner

from lmmr1.config import TrainConfig
from lmmr1.data import data_sha256, read_samples
from lmmr1.precision import settled
from lmmr1.store import adopt, read_manifest, run_key, write_manifest
from lmmr1.types import UserError
from reproduce import cli
from reproduce.micro.build import write_prompts
from reproduce.plan import Plan
from reproduce.status import status_of

NOW = 1_000_000_000.0


@pytest.fixture
def run(tmp_path, tiny_model, tmp_path_factory, monkeypatch):
    """A run of three arms with nothing but a baseline, its prompts and its profile."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # the estimate reads what a run left in this folder
    plan = Plan.load({"profile": "smoke", "name": "x", "arms": ["baseline", "fre", "two_stage"], "seeds": [0, 1]})
    write_manifest(tmp_path / plan.results("baseline/0/manifest.json"), adopt(str(tiny_model), "micro base"))
    for n, stage in enumerate(plan.used_stages, 8):
        write_prompts({"chain": 1.0}, n, 0, tmp_path / plan.results("data", f"{stage}.jsonl"))
    (tmp_path / plan.results("profile.json")).write_text(plan.profile.model_dump_json())
    return plan, tmp_path


def checkpoint(plan, root, arm="fre", seed=0):
    """Where the run's training keeps its logs."""
    prompts = root / plan.results("data", f"{plan.arms[arm].stage}.jsonl")
    cfg = settled(TrainConfig(**plan.train_config(arm, seed)))
    parent = read_manifest(root / plan.parent_manifest(arm, str(seed)))
    folder = root / "checkpoints" / run_key(cfg, parent.key, data_sha256(prompts, read_samples(prompts)))
    folder.mkdir(parents=True)
    return folder


def steps(folder, seconds, age):
    file = folder / "timings.jsonl"
    lines = [json.dumps({"step": i, "seconds": s}) for i, s in enumerate(seconds, 1)]
    file.write_text("\n".join(lines) + '\n{"step": 99, "sec')  # a line that is being written
    os.utime(file, (NOW - age, NOW - age))


def job(plan, root, arm, seed, benchmark=None):
    found = status_of(plan, root, NOW).jobs
    return next(j for j in found if (j.arm, j.seed, j.benchmark) == (arm, seed, benchmark))


def test_every_state(run):
    plan, root = run
    assert job(plan, root, "fre", 0).state == "missing"
    waiting = job(plan, root, "two_stage", 0)
    assert (waiting.state, waiting.message) == ("waiting", f"for {plan.results('fre/0/manifest.json')}")
    assert job(plan, root, "baseline", 0, "micro_chain").state == "missing"
    assert job(plan, root, "fre", 1, "micro_chain").state == "waiting"

    folder = checkpoint(plan, root)
    steps(folder, [9.0, 2.0], age=5)
    running = job(plan, root, "fre", 0)
    assert (running.state, running.step, running.max_steps) == ("running", 2, 3)
    assert running.seconds_per_step == 5.5 and running.seconds_left == 5.5
    steps(folder, [9.0, 2.0], age=3600)
    stopped = job(plan, root, "fre", 0)
    assert stopped.state == "stopped" and "goes on from its last resume point" in stopped.message

    log = root / running.log
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("loading\nerror: images/3.png cannot be read; replace the file or drop its sample\n")
    failed = job(plan, root, "fre", 0)
    assert failed.state == "failed" and failed.message.endswith("replace the file or drop its sample")
    log.write_text("Traceback (most recent call last):\n  ...\nRuntimeError: [bold]x[/]\n")
    assert "train_fre_0.log; the same command tries again" in job(plan, root, "fre", 0).message
    steps(folder, [9.0, 2.0], age=5)
    assert job(plan, root, "fre", 0).state == "running"  # a new attempt: the old log's end says nothing

    write_manifest(
        root / plan.results("fre/0/manifest.json"), read_manifest(root / plan.results("baseline/0/manifest.json"))
    )
    assert job(plan, root, "fre", 0).state == "finished"
    assert job(plan, root, "two_stage", 0).state == "missing"
    record = root / plan.results("fre/0/eval/micro_chain/record.json")
    record.parent.mkdir(parents=True)
    record.write_text("[]")
    assert job(plan, root, "fre", 0, "micro_chain").state == "finished"


@pytest.mark.parametrize("live", [True, False], ids=["on a GPU", "on a CPU"])
def test_a_login_node_sees_the_run_that_goes_on(run, monkeypatch, live):
    """Of a run that was tried with and without a GPU the one that wrote last; this machine may have none itself."""
    plan, root = run
    for gpu in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr("lmmr1.precision.has_gpu", lambda gpu=gpu: gpu)
            steps(checkpoint(plan, root), [9.0, 2.0] if gpu is live else [9.0], age=5 if gpu is live else 3600)
    assert (job(plan, root, "fre", 0).state, job(plan, root, "fre", 0).step) == ("running", 2)


def test_what_is_left_comes_from_finished_jobs(run):
    plan, root = run
    estimated = job(plan, root, "fre", 0).seconds_left
    timing = root / plan.results("timings/fre/1/train.tsv")
    timing.parent.mkdir(parents=True)
    timing.write_text("s\th:m:s\n1234.5\t0:20:34\n")
    assert job(plan, root, "fre", 0).seconds_left == job(plan, root, "two_stage", 0).seconds_left == 1234.5
    assert 0 < estimated < 1234


def test_json_adds_up(run):
    plan, root = run
    found = status_of(plan, root, NOW).as_json()
    jobs = 2 * 2 + 5 * len(plan.benchmarks)
    assert found["schema"] == 1 and len(found["jobs"]) == sum(found["counts"].values()) == jobs
    assert found["seconds_left"] == pytest.approx(sum(j["seconds_left"] for j in found["jobs"]), abs=0.1)
    assert json.loads(json.dumps(found)) == found and found["report"] is False


def test_every_protocol_has_its_own_jobs(run):
    _, root = run
    more = Plan.load({"profile": "smoke", "name": "x", "arms": ["baseline"], "eval": {"protocols": ["rule", "paper"]}})
    found = [j for j in status_of(more, root, NOW).jobs if j.kind == "evaluate"]
    (other,) = [j for j in found if (j.round, j.benchmark) == ("protocols/paper", "micro_chain")]
    assert len(found) == len(more.benchmarks) + len(more.evaluations.prompted) and other.state == "missing"
    record = root / more.results("protocols/paper/baseline/0/eval/micro_chain/record.json")
    record.parent.mkdir(parents=True)
    record.write_text("[]")
    states = {(j.round, j.benchmark): j.state for j in status_of(more, root, NOW).jobs if j.benchmark == "micro_chain"}
    assert states == {(None, "micro_chain"): "missing", ("protocols/paper", "micro_chain"): "finished"}


def test_command(run, monkeypatch):
    plan, root = run
    monkeypatch.setenv("COLUMNS", "80")
    steps(checkpoint(plan, root), [1.0], age=NOW - time.time())
    log = root / plan.results("logs/train_fre_1.log")
    log.parent.mkdir(parents=True)
    log.write_text("error: bad [red] thing\n")
    call = lambda *args: CliRunner().invoke(cli.cli, ["status", *args])
    shown = call(str(root / "results/x"))
    assert shown.exit_code == 0, shown.output
    for word in ("fre/0", "running", "1/3", "bad [red] thing", "waiting", "report not there yet", "left:", "adopted"):
        assert word in shown.output, word
    assert json.loads(call(str(root / "results/x"), "--json").output)["name"] == "x"
    assert isinstance(call(str(root)).exception, UserError)
    assert len(call("--help").output.splitlines()) <= 40
