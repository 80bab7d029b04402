"""Contract: an evaluation whose protocol asks a judge finds one running, on GPUs of its own, and leaves none behind.

vLLM cannot run here, so an executable named `vllm` stands in for it: it starts tests/judge_server.py, which judges by a
rule. Everything else is real: Snakemake, the evaluation, its records, processes and signals.
"""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lmmr1.types import UserError
from reproduce import children, doctor, judge, judge_service
from reproduce.plan import ROOT, Plan
from tests import benchmark_files
from tests.judge_server import serving

MODEL = "Qwen/Qwen2.5-14B-Instruct"
ARMS = ("baseline", "fre")
VLLM = """#!{python}
import json, os, signal, sys, time
sys.path.insert(0, {root!r})
from tests.judge_server import Server
if sys.argv[1] != "serve" or "--refuse" in sys.argv:
    sys.exit("unrecognized arguments")
server = Server(int(sys.argv[sys.argv.index("--port") + 1]))
note = lambda what: open({log!r}, "a").write(json.dumps(what) + "\\n")
note({{"pid": os.getpid(), "argv": sys.argv[1:], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}})
signal.signal(signal.SIGTERM, lambda *_: (note({{"asked": len(server.requests)}}), os._exit(0)))
time.sleep(float(os.environ.get("SLOW", 0)))
server.models = [sys.argv[2]]
server.serve_forever(poll_interval=0.01)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`vllm` on the path; the file that it writes what happened to."""
    log = tmp_path / "vllm.jsonl"
    program = tmp_path / "bin/vllm"
    program.parent.mkdir()
    program.write_text(VLLM.format(python=sys.executable, root=str(ROOT), log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return log


def notes(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def gone(pid, seconds=10):
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


SNAKEFILE = """
import shlex, sys
from reproduce.plan import Plan
from reproduce.start import tell_jobs
plan = Plan.load(config)
tell_jobs(plan)
PYTHON = f"OMP_NUM_THREADS=1 {{shlex.quote(sys.executable)}} -m"
OWN_GPUS = plan.profile.resources.evaluate.gpus
ARMS = list(plan.arms)
rule everything:
    default_target: True
    input: [plan.results(arm, "done") for arm in ARMS]
include: {rules!r}
rule evaluate:
    input:
        judge=lambda wc: plan.judge_file(plan.evaluations.main, wc.arm)
    output: plan.results("{{arm}}", "done")
    log: plan.results("{{arm}}", "log")
    resources: **plan.resources("evaluate")
    params: ask={ask!r}
    shell:
        "{{PYTHON}} reproduce.judge --service {{input.judge}} {{OWN_GPUS}} {{sys.executable}} -c {{params.ask:q}} "
        "{{wildcards.arm}} > {{log}} 2>&1 && mv {{log}} {{output}}"
"""
ASK = """
import json, os, pathlib, sys, time, urllib.request as r
arm, _, url = sys.argv[1:]
served = json.load(r.urlopen(url + "/models"))["data"][0]["id"]
print(json.dumps({"pid": os.getpid(), "served": served, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}), flush=True)
if arm == os.environ.get("FAILING"):
    sys.exit("broken")
while pathlib.Path(os.environ.get("HOLD", "none")).exists():
    time.sleep(0.05)
"""
"""The evaluation's place: it asks the judge that it is told of, fails where it is told to, and lasts as long as HOLD."""


class Evaluated:
    """The real rule of the judge in a real run of Snakemake, with an evaluation that takes no time."""

    def __init__(self, folder, arms=("baseline",), own=0, serve=(), options=(), judge=None):
        self.folder = folder
        (folder / "Snakefile").write_text(SNAKEFILE.format(rules=str(ROOT / "reproduce/rules/judge.smk"), ask=ASK))
        settings = {"protocols": ["paper"], "judge": judge or {"serve": {"gpus": 0, **dict(serve)}}}
        config = {"profile": "smoke", "name": "x", "arms": [*arms], "benchmarks": ["mathvista_mini"],
                  "eval": settings, "resources": {"evaluate": {"gpus": own}}}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "config.json",
                   "--show-failed-logs", *options]  # fmt: skip
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, start_new_session=True,
                                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip  # noqa: PLW1509

    def code(self):
        self.output = self.process.communicate(timeout=120)[0]
        return self.process.returncode

    def asked(self, arm="baseline", of="done"):
        """What the evaluation of an arm printed."""
        file = self.folder / f"results/x/{arm}/{of}"
        wait(lambda: file.exists() and file.read_text().endswith("\n"))
        return json.loads(file.read_text().splitlines()[0])

    def log(self, arm="baseline"):
        return (self.folder / f"results/x/{arm}/log").read_text()


def wait(for_, seconds=60):
    deadline = time.monotonic() + seconds
    while not for_():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.05)


def test_the_judge_is_up_while_its_evaluation_runs_and_gone_afterwards(stand_in, tmp_path):
    run = Evaluated(tmp_path, options=["--cores", "1"])  # a group of two jobs on one core
    assert run.code() == 0, run.output
    started, ended = notes(stand_in)
    assert run.asked()["served"] == MODEL == started["argv"][1] and gone(started["pid"])
    assert set(ended) == {"asked"} and not (tmp_path / "results/x/baseline/judge.json").exists()
    again = Evaluated(tmp_path)
    assert (again.code(), "Nothing to be done" in again.output, len(notes(stand_in))) == (0, True, 2)


def test_judge_and_evaluation_get_gpus_of_their_own(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9")
    run = Evaluated(tmp_path, own=1, serve={"gpus": 2}, options=["--resources", "gpu=3"])
    assert run.code() == 0, run.output
    assert (notes(stand_in)[0]["gpus"], run.asked()["gpus"]) == ("4,7", "9")
    shared = Evaluated(tmp_path, own=1, options=["--forceall"])  # on the evaluation's own
    assert shared.code() == 0, shared.output
    assert (notes(stand_in)[2]["gpus"], shared.asked()["gpus"]) == ("4", "4")


@pytest.mark.parametrize("gpus", ["0,1,2,3", "0,1"])
def test_arms_that_want_gpus_at_once_all_end(stand_in, tmp_path, monkeypatch, gpus):
    """Each takes two at once. Were they taken one by one, on two GPUs each could hold one and wait for ever."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("HOLD", str(hold))
    run = Evaluated(tmp_path, ARMS, own=1, serve={"gpus": 1})
    first = lambda: [n for n in notes(stand_in) if "pid" in n] if stand_in.exists() else []
    wait(lambda: len(first()) == (2 if len(gpus) > 3 else 1))
    hold.unlink()
    assert run.code() == 0, run.output
    said = ["start" if "pid" in n else "end" for n in notes(stand_in)]
    assert said == (["start"] * 2 + ["end"] * 2 if len(gpus) > 3 else ["start", "end"] * 2)
    used = [n["gpus"] for n in first()] + [run.asked(arm)["gpus"] for arm in ARMS]
    assert sorted(used) == (["0", "1", "2", "3"] if len(gpus) > 3 else ["0", "0", "1", "1"])


def test_a_failed_evaluation_takes_its_own_judge_with_it_and_no_other(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILING", "baseline")
    run = Evaluated(tmp_path, ARMS, options=["--keep-going"])
    assert run.code() == 1 and "broken" in run.log()
    assert run.asked("fre")["served"] == MODEL
    assert all(gone(n["pid"]) for n in notes(stand_in) if "pid" in n)
    assert not list(tmp_path.glob("results/x/*/judge.json"))


@pytest.mark.parametrize("how", ["killed", "interrupted", "asked"])
def test_no_judge_outlives_its_workflow(stand_in, tmp_path, monkeypatch, how):
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("HOLD", str(hold))
    run = Evaluated(tmp_path)
    evaluation, judge_ = run.asked(of="log")["pid"], notes(stand_in)[0]["pid"]
    if how == "killed":
        run.process.kill()
    elif how == "interrupted":
        os.killpg(run.process.pid, signal.SIGINT)  # Ctrl-C
    else:
        run.process.terminate()  # Snakemake then waits for what runs
        hold.unlink()
    run.process.wait(timeout=60)
    assert gone(judge_) and gone(evaluation)
    service = tmp_path / "results/x/baseline/judge.json"
    wait(lambda: not service.exists(), 10)
    hold.unlink(missing_ok=True)
    unlocked = [sys.executable, "-m", "snakemake", "--unlock", "--configfile", "config.json"]
    subprocess.run(unlocked, cwd=tmp_path, check=True, capture_output=True)
    again = Evaluated(tmp_path)
    assert again.code() == 0, again.output


def test_an_evaluation_whose_judge_is_killed_ends(stand_in, tmp_path, monkeypatch):
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("HOLD", str(hold))
    run = Evaluated(tmp_path)
    evaluation = run.asked(of="log")["pid"]
    os.kill(notes(stand_in)[0]["pid"], signal.SIGKILL)
    assert run.code() == 1 and gone(evaluation)
    log = "results/x/logs/judge_baseline.log"
    assert f"error: the judge's service has ended; see {log}: error: eval.judge.serve: `vllm serve" in run.log()
    assert "ended with code -9" in (tmp_path / log).read_text()


def test_a_judge_that_does_not_start_is_named(stand_in, tmp_path):
    run = Evaluated(tmp_path, serve={"options": ["--refuse"]})
    assert run.code() == 1
    log = "results/x/logs/judge_baseline.log"
    assert (
        f"error: the judge's service has ended; see {log}: error: eval.judge.serve: `vllm serve {MODEL}`" in run.log()
    )
    said = (tmp_path / log).read_text()
    assert "unrecognized arguments" in said and "ended with code 1" in said and "eval.judge.serve.options" in said


def test_a_judge_that_is_slow_is_waited_for_and_not_for_ever(stand_in, tmp_path, monkeypatch):
    """Snakemake waits 5 s for the file of a service, and vLLM takes minutes to load a model."""
    monkeypatch.setenv("SLOW", "8")
    run = Evaluated(tmp_path, options=["--latency-wait", "5"])
    assert run.code() == 0, run.output
    monkeypatch.setenv("SLOW", "1000")
    late = Evaluated(tmp_path, serve={"start_seconds": 1}, options=["--forceall"])
    assert late.code() == 1
    log = "results/x/logs/judge_baseline.log"
    assert f"did not answer for 1 s; see {log}, or raise eval.judge.serve.start_seconds" in late.log()
    assert all(gone(n["pid"]) for n in notes(stand_in) if "pid" in n)


def test_stopping_ends_what_does_not_end_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "STOP_SECONDS", 0.5)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    both = f"import subprocess as s, sys; p = s.Popen([sys.executable, '-c', {deaf!r}], stdout=s.PIPE); "
    both += "p.stdout.readline(); open(sys.argv[1], 'w').write(f'{p.pid} '); " + deaf
    process = children.start([sys.executable, "-c", both, str(tmp_path / "pid")])
    wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith(" "))
    children.stop(process)
    assert gone(process.pid) and gone(int((tmp_path / "pid").read_text()))


def test_a_server_that_runs_is_used_and_left_alone(stand_in):
    with serving() as server:
        environment = os.environ | {judge_service.VARIABLE: json.dumps({"url": server.url})}
        call = [sys.executable, "-m", "reproduce.judge", "0", "echo", "x"]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"x --judge-url {server.url}\n" and judge.served_models(server.url) == []
    assert not stand_in.exists()
    with pytest.raises(UserError, match="no OpenAI-compatible server answers"):
        judge.served_models(server.url)


def test_a_judge_elsewhere_takes_the_same_way(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    with serving() as server:
        server.models = ["elsewhere"]
        run = Evaluated(tmp_path, own=1, judge={"url": server.url})
        assert run.code() == 0, run.output
    assert (run.asked()["served"], run.asked()["gpus"], stand_in.exists()) == ("elsewhere", "5", False)
    served = Evaluated(tmp_path, own=1)
    assert served.code() == 0 and "Nothing to be done" in served.output, served.output
    nobody = Evaluated(tmp_path, own=1, judge={"url": None}, options=["--forceall"])
    assert nobody.code() == 1 and "$LMMR1_JUDGE: names no judge" in nobody.log()


def test_the_doctor_asks_the_judge(stand_in):
    of = lambda judge_: {
        f.what: f
        for f in doctor._judge(Plan.load({"profile": "paper", "arms": ["baseline"], "eval": {"judge": judge_}}))
    }["judge"]
    with serving() as server:
        assert (of({"url": server.url}).state, MODEL in of({"url": server.url}).fix) == ("missing", True)
        server.models = [MODEL]
        assert of({"url": server.url}).state == "ok"
    assert of({"url": server.url}).state == "missing"
    assert of({"serve": {}}).state == "ok" and "bin/vllm" in of({"serve": {}}).found


def workflow(folder, data, *targets, judge=None):
    """A real run of one arm on one judged benchmark, under `paper` and then under `rule`, which asks no judge."""
    settings = {"protocols": ["paper", "rule"], "judge": judge or {"serve": {"gpus": 0}}, "arm_prompts": {"baseline": "cot"},
                "data_root": str(data), "any_data": True}  # fmt: skip
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *targets, "--config", "profile=smoke", "name=judged",
               "arms=[baseline]", "benchmarks=[mathvista_mini]", f"eval={json.dumps(settings)}"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_workflow_serves_the_judge_while_it_evaluates(checkout, stand_in, tmp_path):
    data = benchmark_files.write_all(tmp_path / "data")
    main = "results/judged/baseline/0/eval/mathvista_mini/record.json"
    other = "results/judged/protocols/rule/baseline/scores.csv"
    table = data / "MathVista_MINI.tsv"
    good = table.read_text()
    table.write_text("index\n1\n")
    failed = workflow(checkout, data, main)
    log = (checkout / "results/judged/logs/evaluate_arm_baseline.log").read_text()
    assert failed.returncode != 0 and "error:" in log, failed.stderr[-2000:] + log
    assert gone(notes(stand_in)[0]["pid"]) and notes(stand_in)[1] == {"asked": 0}

    table.write_text(good)
    done = workflow(checkout, data, main, other)
    assert done.returncode == 0, done.stderr[-2000:] + log
    started, ended = notes(stand_in)[2:]
    assert started["argv"][:2] == ["serve", MODEL] and ended["asked"] > 0 and gone(started["pid"])
    headline = lambda path: next(r for r in json.loads((checkout / path).read_text()) if r["subset"] == "all")
    asked = headline(main)["protocol"]
    assert asked["judge"]["model"] == MODEL and asked["protocol"] == "paper"
    again = headline(main.replace("judged/", "judged/protocols/rule/"))["protocol"]
    assert not again["judge"] and again["protocol"] == "rule"

    # where the judge is runs nothing again
    elsewhere = workflow(checkout, data, main, other, judge={"url": "http://127.0.0.1:9/v1"})
    assert elsewhere.returncode == 0 and "Nothing to be done" in elsewhere.stderr, elsewhere.stderr[-2000:]
    assert len(notes(stand_in)) == 4 and not list(checkout.glob("results/judged/**/judge.json"))
