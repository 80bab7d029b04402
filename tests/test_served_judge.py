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
from reproduce import doctor, judge
from reproduce.plan import ROOT, Plan
from tests import benchmark_files
from tests.judge_server import serving

MODEL = "Qwen/Qwen2.5-14B-Instruct"
VLLM = """#!{python}
import json, os, signal, sys
sys.path.insert(0, {root!r})
from tests.judge_server import Server
if sys.argv[1] != "serve" or "--refuse" in sys.argv:
    sys.exit("unrecognized arguments")
server = Server(int(sys.argv[sys.argv.index("--port") + 1]))
note = lambda what: open({log!r}, "a").write(json.dumps(what) + "\\n")
note({{"pid": os.getpid(), "argv": sys.argv[1:], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}})
signal.signal(signal.SIGTERM, lambda *_: (note({{"asked": len(server.requests)}}), os._exit(0)))
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


def beside_judge(gpus, command, serve, **how):
    environment = os.environ | {judge.VARIABLE: json.dumps({"serve": serve})}
    call = [sys.executable, "-m", "reproduce.judge", "--model", MODEL, str(gpus), sys.executable, "-c", command]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


ASK = "import json, sys, urllib.request as r; print(json.load(r.urlopen(sys.argv[2] + '/models')), flush=True); "
"""The evaluation's place: its arguments are --judge-url URL."""


def test_judge_and_evaluation_get_gpus_of_their_own(stand_in, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9")
    command = ASK + "import os; print(os.environ['CUDA_VISIBLE_DEVICES']); sys.exit(3)"
    done = beside_judge(1, command, {"gpus": 2, "options": ["--max-model-len", "16384"]})
    out, err = done.communicate(timeout=60)
    assert (done.returncode, MODEL in out, out.splitlines()[-1]) == (3, True, "9"), err
    started = notes(stand_in)[0]
    assert started["gpus"] == "4,7" and started["argv"][-2:] == ["--max-model-len", "16384"] and gone(started["pid"])


def test_evaluations_that_cannot_have_both_wait_holding_nothing(stand_in, monkeypatch):
    """Two GPUs and two evaluations that need two each: were they taken one by one, both could wait for ever."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    both = [beside_judge(1, ASK, {"gpus": 1}) for _ in range(2)]
    assert [p.communicate(timeout=60) and p.returncode for p in both] == [0, 0]
    said = ["start" if "pid" in n else "end" for n in notes(stand_in)]
    assert said == ["start", "end"] * 2


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_judge_outlives_its_evaluation(stand_in, sign):
    process = beside_judge(0, ASK + "import os; print(os.getpid(), flush=True); sys.stdin.read()", {"gpus": 0},
                           stdin=subprocess.PIPE)  # fmt: skip
    process.stdout.readline()
    evaluation = int(process.stdout.readline())
    process.send_signal(sign)
    process.wait(timeout=60)
    assert gone(notes(stand_in)[0]["pid"]) and gone(evaluation)


def test_a_judge_that_does_not_start_is_named(stand_in):
    process = beside_judge(0, ASK, {"gpus": 0, "options": ["--refuse"]})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and not out
    assert f"`vllm serve {MODEL}` ended with code 1" in err and "eval.judge.serve.options" in err
    slow = beside_judge(0, ASK, {"gpus": 0, "start_seconds": 0.01})
    assert "did not answer" in slow.communicate(timeout=60)[1] and slow.returncode == 2


def test_a_server_that_runs_is_used_and_left_alone(stand_in):
    with serving() as server:
        environment = os.environ | {judge.VARIABLE: json.dumps({"url": server.url})}
        call = [sys.executable, "-m", "reproduce.judge", "--model", MODEL, "0", "echo", "x"]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"x --judge-url {server.url}\n" and judge.served_models(server.url) == []
    assert not stand_in.exists()
    with pytest.raises(UserError, match="no OpenAI-compatible server answers"):
        judge.served_models(server.url)


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


def workflow(folder, data, *targets):
    """A real run of one arm on one judged benchmark, under `paper` and then under `rule`, which asks no judge."""
    settings = {"protocols": ["paper", "rule"], "judge": {"serve": {"gpus": 0}}, "arm_prompts": {"baseline": "cot"},
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
