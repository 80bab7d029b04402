"""Contract: several processes that answer give the records of one, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from evals import run as evaluation
from evals.generation import EvalModel, generate_all, greedy
from evals.plan import Options, worker_count
from evals.workers import Fleet, as_many_as_fit, cores, loaded
from lmmr1.types import Rollout, Sample, UserError


class Echo:
    """Answers with the process that answered; some prompts break it."""

    def generate(self, samples, sampling, num_generations, seed):
        texts = [sample.messages[0]["content"] for sample in samples]
        if "die" in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        if "user" in texts:
            raise UserError("image x.png cannot be read; replace the file")
        if "bug" in texts:
            raise ZeroDivisionError("no such thing")
        return [
            (Rollout(s.id, (1,), (0.0,), f"{os.getpid()} {t}", "stop"),) for s, t in zip(samples, texts, strict=True)
        ]


def echo_model():
    return EvalModel(Echo(), lambda s: s.messages[0]["content"], "stub/cpu", "float32", None, None)


def broken_model():
    raise UserError("weights: not a checkpoint folder")


def asked(*texts):
    return [Sample(str(i), [{"role": "user", "content": text}], (), "") for i, text in enumerate(texts)]


def test_records_are_the_same_bytes_with_one_and_with_two_processes(tmp_path, tiny_model):
    from tests.test_evals import image_rows, jsonl, text_rows, tsv  # here: the processes import this file, not that one

    jsonl(tmp_path / "micro_chain.jsonl", text_rows(12))
    tsv(tmp_path / "micro_drawn.tsv", image_rows(12))
    names, contents = ["micro_chain", "micro_drawn"], []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        options = Options.of(benchmark_dir=tmp_path, batch_size=3, max_new_tokens=8, workers=workers)
        evaluation.evaluate(str(tiny_model), names, out, options)
        assert json.loads((out / "timing.json").read_text())["micro_drawn"]["workers"] == workers
        contents.append(
            [(out / name / file).read_bytes() for name in names for file in ("record.json", "samples.jsonl")]
        )
    assert contents[0] == contents[1]


def test_answers_come_back_in_order_from_several_processes_which_end_with_the_block():
    with loaded(echo_model, 3) as model:
        texts = [r.text for r in generate_all(model, asked(*"abcdefghij"), greedy(4), 2)]
        assert [text.split()[1] for text in texts] == list("abcdefghij")
        others = {int(text.split()[0]) for text in texts} - {os.getpid()}
    for pid in others:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_fleet_asks_as_many_engines_at_once_as_there_are():
    meeting = threading.Barrier(3, timeout=30)

    class Waiting(Echo):
        def generate(self, *request):
            meeting.wait()
            return super().generate(*request)

    model = EvalModel(Fleet([Waiting() for _ in range(3)]), str, "stub", "float32", None, None, workers=3)
    assert len(generate_all(model, asked(*"abcdef"), greedy(4), 1)) == 6


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("user", UserError, "x.png"),
        ("bug", RuntimeError, "ZeroDivisionError: no such thing"),
        ("die", RuntimeError, "-9"),
    ],
)
def test_what_happens_in_another_process_is_raised_here(text, error, message):
    with pytest.raises(error, match=message), loaded(echo_model, 2) as model:
        remote = [model.engine._free.get() for _ in range(2)][1]
        remote.generate(asked("a", text), greedy(4), 1, (0,))


def test_a_model_that_cannot_be_loaded_is_said_once_and_leaves_no_process():
    with pytest.raises(UserError, match="not a checkpoint folder"), loaded(broken_model, 2):
        pytest.fail("loaded")


def test_how_many_processes(tiny_model, tmp_path, monkeypatch):
    assert (worker_count("auto"), worker_count("3")) == (None, 3)
    for bad in ("0", "-1", "many", "1.5", ""):
        with pytest.raises(UserError, match="--workers"):
            worker_count(bad)
    with pytest.raises(UserError, match="--workers"):
        Options.of(workers=0)
    assert as_many_as_fit(str(tiny_model), 1) == 1
    assert as_many_as_fit(str(tiny_model), 100) in range(1, cores() + 1)
    monkeypatch.setattr("evals.workers.cores", lambda: 64)
    monkeypatch.setattr("evals.workers._free_memory", lambda: 10 * 2**30)
    assert as_many_as_fit(str(tiny_model), 100) == 9, "a GiB each, and the weights twice"
    assert as_many_as_fit(str(tiny_model), 4) == 4
    assert as_many_as_fit("owner/name", 100) == 1


def test_a_killed_run_with_two_processes_leaves_none_and_goes_on(tmp_path, tiny_model):
    from tests.test_evals import jsonl, text_rows

    jsonl(tmp_path / "micro_chain.jsonl", text_rows(40))
    (tmp_path / "m.json").write_text(json.dumps({"key": "k", "weights": str(tiny_model)}))
    command = [sys.executable, "-m", "evals.run", "--harness", "lm_eval", "--manifest", str(tmp_path / "m.json")]
    command += ["--benchmarks", "micro_chain", "--benchmark-dir", str(tmp_path), "--batch-size", "2"]
    command += ["--max-new-tokens", "24", "--workers", "2", "--out"]
    killed = subprocess.Popen([*command, str(tmp_path / "out")], start_new_session=True)
    journal = tmp_path / "out" / ".micro_chain-answers.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert killed.poll() is None, "ended before it was killed"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    for name in ("out", "whole"):
        subprocess.run([*command, str(tmp_path / name)], check=True)
    for file in ("record.json", "samples.jsonl"):
        assert (tmp_path / "out/micro_chain" / file).read_bytes() == (
            tmp_path / "whole/micro_chain" / file
        ).read_bytes()
    with pytest.raises(ProcessLookupError):  # the other process saw that nobody asks, and ended
        for _ in range(600):
            os.killpg(killed.pid, 0)
            time.sleep(0.1)
